"""Remove one check of clients that pick their holders, and a server that lies opens a few.

Twelve clients, whose picks are given so that the check is all that holds: with it nothing below
the signed majority opens, without it three clients do, or two halves.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from lying import Lying, few_clients_pick, input_of, params_of

from protocols import testing
from protocols.bonawitz import params
from protocols.bonawitz.client import AwaitSurvivors
from protocols.bonawitz.messages import Mark, SignedSet, Survivors
from protocols.bonawitz.params import Context
from protocols.bonawitz.server import CollectVectors
from protocols.errors import InputError, RemoteProtocolError
from protocols.testing import agreement_of, insecure_identities, insecure_plan, played
from protocols.wire import write_subset

FEW = frozenset({0, 1, 2})
REST = frozenset(range(3, 12))
ALL = FEW | REST
HONEST = params_of(12, rates=params.Rates(corrupt_fraction=0, dropout=0))  # seven must sign


def rounds(who: Iterable[int], *steps: int) -> dict[int, set[int]]:
    """Each picks those so many places behind it, in a circle of ``who``."""
    listed = sorted(who)
    places = {n: place for place, n in enumerate(listed)}
    return {n: {listed[(places[n] + step) % len(listed)] for step in steps} for n in listed}


def opened(server: Lying, named: Mapping[int, Iterable[int]]) -> list[frozenset[int]]:
    return [part for part, _ in server.open({n: frozenset(who) for n, who in named.items()})]


def marks_that(monkeypatch: pytest.MonkeyPatch, changed: Any) -> None:
    """A client reads the marks of the survivors as ``changed`` shows them."""
    checked = AwaitSurvivors._check_marks
    monkeypatch.setattr(
        AwaitSurvivors,
        "_check_marks",
        lambda self, survivors: checked(*changed(self, survivors)),
    )


# 1. A mark names us


def few_that_the_rest_picked() -> tuple[Lying, dict[int, frozenset[int]]]:
    """Who picked one of the few shares with it, and the few never got that box."""
    picks = rounds(FEW, 1, 2) | {n: {n % 3, 3 + (n - 2) % 9} for n in REST}
    server = Lying(12, params=HONEST, picks=picks)
    server.mask({n: FEW if n in FEW else ALL for n in ALL}, dict.fromkeys(ALL, ALL))
    return server, dict.fromkeys(ALL, ALL)


def test_who_is_not_named_by_the_mark_of_its_pick_does_not_help(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few_clients_pick(monkeypatch, 2, 2)
    assert not opened(*few_that_the_rest_picked())


def test_without_that_the_rest_sign_for_three(monkeypatch: pytest.MonkeyPatch) -> None:
    few_clients_pick(monkeypatch, 2, 2)
    server, named = few_that_the_rest_picked()

    def anybody(self: Any, survivors: Survivors) -> tuple[Any, Survivors]:
        """The rule removed: a mark is its client's own, whomever it names."""
        return replace(self, peers=frozenset({self.me})), survivors

    marks_that(monkeypatch, anybody)
    assert FEW in opened(server, named)


# 2. Every pick among the survivors is included


def few_that_pick_one_of_the_rest() -> tuple[Lying, dict[int, frozenset[int]]]:
    """The few are told that it never shared."""
    picks = {n: (FEW - {n}) | {3 + n} for n in FEW} | rounds(REST, 1, 2, 3)
    server = Lying(12, params=HONEST, picks=picks)
    passed_on = {n: ALL - {3 + n} if n in FEW else REST for n in ALL}
    server.mask(passed_on, {n: passed_on[n] if n in FEW else ALL for n in ALL})
    return server, dict.fromkeys(ALL, ALL)


def test_a_pick_that_is_said_never_to_have_shared_is_no_survivor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few_clients_pick(monkeypatch, 3, 2)
    assert FEW not in opened(*few_that_pick_one_of_the_rest())


def test_without_that_three_open_beside_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    few_clients_pick(monkeypatch, 3, 2)
    server, named = few_that_pick_one_of_the_rest()
    read = AwaitSurvivors._read_survivors
    monkeypatch.setattr(
        AwaitSurvivors,
        "_read_survivors",
        lambda self, message: read(replace(self, silent=frozenset()), message),
    )
    assert set(opened(server, named)) == {FEW, REST}


# 3. Nobody reveals for an in-picker that has not marked it


def few_that_pick_the_rest() -> tuple[Lying, dict[int, frozenset[int]]]:
    """The few have two holders among the rest, and are told that these never shared."""
    picks = {n: {(n + 1) % 3, 3 + 2 * n, 4 + 2 * n} for n in FEW} | rounds(REST, 1, 2, 3)
    server = Lying(12, params=HONEST, picks=picks)
    passed_on = {n: ALL - picks[n] | FEW if n in FEW else ALL for n in ALL}
    server.mask(passed_on)
    return server, dict.fromkeys(ALL, ALL)


def test_a_holder_reveals_for_nobody_that_has_not_marked_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few_clients_pick(monkeypatch, 3, 2)
    assert not opened(*few_that_pick_the_rest())


def test_without_that_holders_open_three(monkeypatch: pytest.MonkeyPatch) -> None:
    few_clients_pick(monkeypatch, 3, 2)
    server, named = few_that_pick_the_rest()

    def picks_alone(self: Any, survivors: Survivors) -> tuple[Any, Survivors]:
        """The rule removed: of in-pickers no mark is asked for."""
        return replace(self, peers=self.peers & server.picks[self.me] | {self.me}), survivors

    marks_that(monkeypatch, picks_alone)
    assert FEW in opened(server, named)


# 4. More than half of all and the corrupt sign


HALVES = frozenset(range(6)), frozenset(range(6, 12))


def two_halves() -> tuple[Lying, dict[int, frozenset[int]]]:
    """Each half is one round of its own, to which the others are lost."""
    picks = rounds(HALVES[0], 1, 2, 3) | rounds(HALVES[1], 1, 2, 3)
    server = Lying(12, params=HONEST, picks=picks)
    half = {n: HALVES[n > 5] for n in ALL}
    server.mask(half, dict.fromkeys(ALL, ALL))
    return server, half


def test_exactly_half_is_no_majority(monkeypatch: pytest.MonkeyPatch) -> None:
    few_clients_pick(monkeypatch, 3, 2)
    assert not opened(*two_halves())


def test_without_that_two_halves_open(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (params, testing):  # the rule changed: at least half
        monkeypatch.setattr(module, "majority", lambda n, corrupt=0: (n + corrupt + 1) // 2)
    few_clients_pick(monkeypatch, 3, 2)
    assert set(opened(*two_halves())) == set(HALVES)


# 5. The corrupt are a fraction of those agreed, not of those who came


CORRUPT = frozenset({6, 7, 8})


def two_sets_that_the_corrupt_sign_both() -> tuple[Lying, dict[int, frozenset[int]]]:
    """Nine of twelve came, among them all three that are corrupt; each honest three is alone."""
    sides = frozenset({0, 1, 2}), frozenset({3, 4, 5})
    picks = rounds(sides[0], 1, 2) | rounds(sides[1], 1, 2) | rounds(CORRUPT, 1, 2)
    rates = params.Rates(corrupt_fraction="1/4", dropout=0)
    server = Lying(9, CORRUPT, params=params_of(12, rates=rates), picks=picks)
    side = {n: sides[n > 2] | CORRUPT for n in range(9)}
    server.mask(side, dict.fromkeys(range(9), range(9)))
    everybody = frozenset(range(9))
    return server, {n: everybody if n in sides[0] else everybody - {0} for n in range(9)}


def test_who_did_not_come_makes_no_fewer_corrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    few_clients_pick(monkeypatch, 2, 2)
    assert not opened(*two_sets_that_the_corrupt_sign_both())


def test_without_that_two_sets_of_three_open(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = insecure_plan(2, 2)
    monkeypatch.setattr(
        params, "plan_graph", lambda n, g, d, *, active, agreed: plan(n, g, d, active=active)
    )
    assert len(opened(*two_sets_that_the_corrupt_sign_both())) == 2


# 6. Every survivor is of the roster


def test_names_of_nobody_have_no_place_in_a_set() -> None:
    """No message says them: a set is of the roster's places (``tests/protocols/test_wire.py``)."""
    with pytest.raises(InputError, match=r"not in the roster: \[100, 101, 102\]"):
        write_subset({*range(7), 100, 101, 102}, range(12))


# 7. A mark is of one round, and 8. of one client


def marks_of_another_session() -> tuple[Lying, dict[int, frozenset[int]]]:
    server, named = few_that_the_rest_picked()
    before = Lying(12, params=HONEST, picks=server.picks, session=b"the one before !")
    before.mask(dict.fromkeys(ALL, ALL))
    server.marks = before.marks
    return server, named


def test_marks_of_another_session_open_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    few_clients_pick(monkeypatch, 2, 2)
    assert not opened(*marks_of_another_session())


def test_without_the_context_in_their_label_they_open_three(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Context, "included", lambda self, client: b"included %d" % client)
    few_clients_pick(monkeypatch, 2, 2)
    assert FEW in opened(*marks_of_another_session())


def taken_under_the_label_of_another(monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether client 0 takes a mark that its peer signed under the label of client 11."""
    few_clients_pick(monkeypatch, 3, 2)
    server = Lying(12, params=HONEST)
    server.mask(dict.fromkeys(ALL, ALL))
    peer = min(server.included[0])
    bitmap = server.marks[peer].included
    signature = server.identities[peer].sign(server.context.included(11), bitmap)
    server.marks[peer] = SignedSet(included=bitmap, signature=signature)
    try:
        server.show_survivors(0, ALL, testing.BurnInMemory())
    except RemoteProtocolError:
        return False
    return True


def test_a_mark_under_the_label_of_another_is_no_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not taken_under_the_label_of_another(monkeypatch)


def test_without_the_client_in_its_label_it_would_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Context, "included", lambda self, _: self._label(b"included", b""))
    assert taken_under_the_label_of_another(monkeypatch)


# What one client, or a few, can do to the others


def test_one_whom_all_the_corrupt_pick_has_no_more_masks_than_there_are_clients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few_clients_pick(monkeypatch, 4, 2)
    corrupt = range(12, 24)
    picks = rounds(range(12), 1, 2, 3, 4) | {
        n: {0, *(12 + (n - 12 + step) % 12 for step in (1, 2, 3))} for n in corrupt
    }
    server = Lying(24, params=params_of(24), picks=picks)
    everybody = dict.fromkeys(range(24), range(24))
    server.mask(everybody)
    assert server.included[0] == set(range(1, 5)) | set(range(8, 12)) | set(corrupt)
    assert len(server.marks_for(0, range(24))) == 20 < 24
    ((part, words),) = server.open(everybody)
    assert part == set(range(24))
    assert words.tolist() == [2**24 - 1, 7 * 24, 24]


HOLDERS, THRESHOLD = 8, 3


@pytest.mark.parametrize("lie", ["rubbish", "mark", "both"])
def test_a_fifth_of_the_corrupt_that_seal_rubbish_and_complain_of_all_are_dropped_by_name(
    lie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of thirty, five may be corrupt; one lies. Nobody honest refuses, and the sum comes out."""
    few_clients_pick(monkeypatch, HOLDERS, THRESHOLD)
    clients, liar = range(30), 7
    identities = insecure_identities(clients)
    inputs = {n: input_of(n) for n in clients}
    made = played(agreement_of(params_of(30)), inputs, "roster", identities=identities)
    answers, states = made.answers()
    collect = made.server
    for n in clients:
        collect.receive(answers[n])
    if lie != "mark":
        for recipient in sorted(collect._boxes[liar])[: HOLDERS - THRESHOLD]:
            collect._boxes[liar][recipient] = bytes(92)
    boxes, collect = collect.close()
    made = replace(made, stage="boxes", server=collect, states=states, boxes=boxes)
    answers, states = made.answers()
    if lie != "rubbish":
        empty = write_subset((), clients)
        signature = identities[liar].sign(made.context.included(liar), empty)
        mark = SignedSet(included=empty, signature=signature)
        answers[liar][-1] = Mark(header=made.header, sender=liar, mark=mark).to_bytes()
    assert isinstance(collect, CollectVectors)
    for n in clients:
        collect.receive(answers[n])
    named, signing = collect.close_to_sign()
    assert collect.dropped == (liar,)
    honest = [n for n in clients if n != liar]
    assert sorted(named) == honest
    signed = {n: states[n].sign_survivors(named[n]) for n in honest}
    for answer, _ in signed.values():
        signing.receive(answer)
    shown, reveals = signing.close()
    for n in honest:
        reveals.receive(signed[n][1].on_signatures(shown[n]))
    released = reveals.close()
    expected = sum((input_of(n) for n in honest), start=input_of(0) * 0)
    assert released.words.tolist() == expected.tolist()
