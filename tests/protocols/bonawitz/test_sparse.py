"""Rounds on sparse graphs, with a server that is trusted and one that is not.

Whoever drops out at whatever stage, the rest sum exactly or not at all, and a
client refuses every neighbourhood but the planned one.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from protocols.bonawitz import (
    Agreement,
    AwaitBoxes,
    AwaitRoster,
    AwaitSurvivors,
    CollectKeys,
    Params,
    Rates,
    Sum,
    join,
    restore,
)
from protocols.bonawitz.graph import Complete, GraphPlan, Harary
from protocols.bonawitz.messages import Roster, ShareBoxes, Survivors
from protocols.entropy import system
from protocols.errors import (
    DecodeError,
    LocalProtocolError,
    RemoteProtocolError,
    TooFewSurvivors,
)
from protocols.primitives.prg import Mask, Masks, Suite
from protocols.testing import (
    BurnInMemory,
    agreement_of,
    insecure_entropy,
    insecure_identities,
    publics_of,
)

ADVERTISE, SHARE, MASK, SIGN, REVEAL, NEVER = range(6)  # the message a client fails to send
WORDS = 3
IDENTITIES = insecure_identities(range(40))


def input_of(client: int) -> NDArray[np.uint64]:
    return np.frombuffer(hashlib.shake_256(f"{client}".encode()).digest(8 * WORDS), "<u8").astype(
        np.uint64
    )


def sum_of(clients: Sequence[int]) -> NDArray[np.uint64]:
    total = np.zeros(WORDS, np.uint64)
    for client in clients:
        total += input_of(client)
    return total


@dataclass
class Round:
    """A round of honest parties; a client in ``drops`` goes before the message named there."""

    agreement: Agreement
    drops: Mapping[int, int] = field(default_factory=dict)
    through_records: bool = False
    entropy: Any = insecure_entropy
    store: BurnInMemory = field(default_factory=BurnInMemory)
    masks: list[tuple[int, Mask]] = field(default_factory=list)
    sent: list[bytes] = field(default_factory=list)
    refusals: int = 0

    def moved(self, state: Any) -> Any:
        return restore(state.into_record(), burn=self.store) if self.through_records else state

    def answers(
        self, stage: int, messages: Mapping[int, bytes], step: Any
    ) -> Iterator[tuple[int, Any]]:
        for client, message in messages.items():
            if self.drops.get(client, NEVER) <= stage:
                continue
            try:
                answer = step(self.states[client], message)
            except RemoteProtocolError as error:  # too few neighbours: it goes
                if "needed" not in str(error):
                    raise
                self.refusals += 1
                continue
            if isinstance(answer, tuple):
                answer, after = answer
                self.states[client] = self.moved(after)
            yield client, answer

    def keys(self) -> CollectKeys:
        params = self.agreement.params
        publics = publics_of(IDENTITIES)
        collect = CollectKeys(self.agreement, publics if params.active else None)
        self.states: dict[int, Any] = {}
        for client in range(params.clients):
            if self.drops.get(client, NEVER) == ADVERTISE:
                continue
            entropy = self.entropy((client, self.agreement.round))
            if params.active:
                mine = IDENTITIES[client]
                message, state = join(
                    self.agreement, client, entropy, identity=mine, identities=publics
                )
            else:
                message, state = join(self.agreement, client, entropy)
            collect.receive(message)
            self.states[client] = self.moved(state)
        return collect

    def at_rosters(self) -> tuple[dict[int, bytes], Any]:
        self.rosters, shares = self.keys().close(insecure_entropy("graph"))
        self.graph = shares._round.graph
        return self.rosters, shares

    def at_boxes(self) -> tuple[dict[int, bytes], Any]:
        rosters, shares = self.at_rosters()
        for _, answer in self.answers(SHARE, rosters, lambda s, m: s.on_roster(m)):
            shares.receive(answer)
        return shares.close()  # type: ignore[no-any-return]  # a collection

    def at_survivors(self) -> tuple[dict[int, bytes], Any]:
        boxes, vectors = self.at_boxes()

        def mask(state: Any, message: bytes) -> Any:
            def look(masks: Sequence[Mask], suite: Suite) -> Masks:
                self.masks += [(state.me, mask) for mask in masks]
                return Masks(masks, suite)

            frames, after = state.on_boxes(message, input_of(state.me), expand=look)
            return list(frames), after

        for _, frames in self.answers(MASK, boxes, mask):
            vectors.receive(frames)
            self.sent += frames
        return vectors.close_to_sign() if self.agreement.params.active else vectors.close()  # type: ignore[no-any-return]  # a collection

    def run(self) -> Sum:
        survivors, reveals = self.at_survivors()
        self.alive, messages = set(survivors), survivors
        if self.agreement.params.active:
            for _, answer in self.answers(SIGN, messages, lambda s, m: s.sign_survivors(m)):
                reveals.receive(answer)
            messages, reveals = reveals.close()
            step = lambda s, m: s.on_signatures(m)  # noqa: E731  # one of two one-line steps
        else:
            step = lambda s, m: s.on_survivors(m)  # noqa: E731  # the other
        for _, answer in self.answers(REVEAL, messages, step):
            reveals.receive(answer)
        released: Sum = reveals.close()
        return released


@st.composite
def rounds(draw: st.DrawFn) -> Round:
    clients = draw(st.integers(4, 40))
    params = Params(
        clients=clients,
        rates=draw(
            st.sampled_from(
                [
                    Rates(corrupt_fraction="0", dropout="0"),
                    Rates(corrupt_fraction="0", dropout="0.1"),
                    Rates(corrupt_fraction="0.05", dropout="0.1"),
                    Rates(corrupt_fraction="0.05", dropout="0.2"),
                ]
            )
        ),
        minimum_survivors=draw(st.integers(2, clients)),
        words=WORDS,
    )
    stages = st.sampled_from([ADVERTISE, SHARE, MASK, SIGN, REVEAL])
    most = draw(st.sampled_from([clients // 10, clients // 5, clients]))
    drops = draw(st.dictionaries(st.integers(0, clients - 1), stages, max_size=most))
    return Round(agreement_of(params), drops, through_records=draw(st.booleans()))


def test_any_dropouts_give_the_exact_sum_or_too_few() -> None:
    ended = {"sum": 0, "too few": 0, "refused and summed": 0}

    @given(rounds())
    @settings(max_examples=60, derandomize=True, deadline=None)
    def check(one: Round) -> None:
        try:
            released = one.run()
        except TooFewSurvivors:
            ended["too few"] += 1
            return
        expected = {client for client, stage in one.drops.items() if stage <= MASK}
        assert set(released.survivors) == one.alive
        assert one.alive.isdisjoint(expected)
        assert len(one.alive) >= one.agreement.params.minimum_survivors
        assert np.array_equal(released.words, sum_of(released.survivors))
        ended["sum"] += 1
        ended["refused and summed"] += one.refusals > 0

    check()
    assert min(ended["sum"], ended["too few"]) >= 10


RING = Params(clients=20, rates=Rates(corrupt_fraction="0.1", dropout="0.1"), words=WORDS)
RINGS = pytest.mark.parametrize("params", [RING], ids=["curious"])


@RINGS
@pytest.mark.parametrize("stage", [ADVERTISE, SHARE, MASK, SIGN, REVEAL])
@pytest.mark.parametrize("through_records", [False, True])
def test_the_planned_dropouts_leave_the_exact_sum(
    params: Params, stage: int, through_records: bool
) -> None:
    if stage == SIGN and not params.active:
        stage = MASK
    one = Round(agreement_of(params), {3: stage, 17: stage}, through_records=through_records)
    released = one.run()
    alive = [c for c in range(20) if stage > MASK or c not in (3, 17)]
    assert released.survivors == tuple(alive)
    assert np.array_equal(released.words, sum_of(alive))
    assert one.refusals == 0


@RINGS
def test_the_graph_is_sparse_and_each_client_is_told_of_its_neighbours_alone(
    params: Params,
) -> None:
    one = Round(agreement_of(params))
    rosters, _ = one.at_rosters()
    planned = params.plan(20)
    assert planned == GraphPlan(
        degree=8 if params.active else 6, threshold=6 if params.active else 3
    )
    digests = set()
    for client, message in rosters.items():
        roster = Roster.from_bytes(message, expect=one.agreement.header, signed=params.active)
        assert roster.entries.keys() == one.graph.neighbours(client) | {client}
        assert roster.size == 20
        digests.add(roster.digest())
    assert len(digests) == 1


@RINGS
def test_a_client_that_loses_more_neighbours_than_planned_costs_nothing_but_the_round(
    params: Params,
) -> None:
    one = Round(agreement_of(params))
    one.at_rosters()
    near = sorted(one.graph.neighbours(5))
    drops = dict.fromkeys(near[: len(near) - params.plan(20).threshold + 1], MASK)
    with pytest.raises(TooFewSurvivors, match="nothing was released"):
        Round(agreement_of(params), drops).run()


def test_client_numbers_and_counts_between_sparse_and_complete() -> None:
    for clients in range(2, 14):
        params = Params(clients=clients, rates=RING.rates, words=WORDS)
        released = Round(agreement_of(params)).run()
        assert np.array_equal(released.words, sum_of(range(clients)))


def test_a_roster_for_which_there_is_no_graph_releases_nothing() -> None:
    params = Params(clients=9, rates=Rates(corrupt_fraction="0.4", dropout="0.5"), words=WORDS)
    assert params.plan(9).degree is None
    one = Round(agreement_of(params), {8: ADVERTISE})
    with pytest.raises(TooFewSurvivors, match="threshold of 5 is needed and 4 would be left"):
        one.run()
    assert not one.sent


def test_a_server_in_a_sparse_round_unmasks_neighbours_only() -> None:
    one = Round(agreement_of(RING), {4: MASK})
    survivors, reveals = one.at_survivors()
    for client, message in survivors.items():
        reveals.receive(one.states[client].on_survivors(message))
    seen: list[Mask] = []

    def look(masks: Sequence[Mask], suite: Suite) -> Masks:
        seen.extend(masks)
        return Masks(masks, suite)

    reveals.close(look)
    assert len(seen) == 19 + 6
    assert len({(mask.seed.expose(), mask.label) for mask in seen}) == len(seen)


# A client refuses every neighbourhood but the planned one


ME = 7


def at_roster(params: Params = RING) -> tuple[Roster, AwaitRoster]:
    one = Round(agreement_of(params))
    rosters, _ = one.at_rosters()
    header = one.agreement.header
    return Roster.from_bytes(rosters[ME], expect=header, signed=params.active), one.states[ME]


def refuses(state: AwaitRoster, roster: Roster, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        state.on_roster(roster.to_bytes())


@RINGS
@pytest.mark.parametrize("change", [-1, 1])
def test_a_neighbour_list_that_is_not_exactly_the_degree_is_refused(
    params: Params, change: int
) -> None:
    roster, state = at_roster(params)
    entries = dict(roster.entries)
    if change < 0:
        del entries[min(entries.keys() - {ME})]
    else:
        stranger = min(set(range(20)) - entries.keys())
        entries[stranger] = Round(agreement_of(params)).keys()._keys[stranger]
    k = 8 if params.active else 6
    refuses(
        state,
        replace(roster, entries=entries),
        f"{k + change} neighbours in the roster, {k} are planned for 20",
    )
    state.on_roster(roster.to_bytes())


def test_a_neighbour_list_without_us_or_with_us_twice_is_refused() -> None:
    roster, state = at_roster()
    entries = dict(roster.entries)
    del entries[ME]
    refuses(state, replace(roster, entries=entries), "lacks our keys")
    entries[max(entries) + 1] = roster.entries[ME]
    refuses(state, replace(roster, entries=entries), "lacks our keys")
    peer = min(roster.entries.keys() - {ME})
    entries = {**roster.entries, peer: roster.entries[ME]}
    refuses(state, replace(roster, entries=entries), "stands twice")
    data = bytearray(roster.to_bytes())
    mine = u32_at(data, ME)
    first = 22 + 8 + 4 + 32 + 4
    data[first : first + 68] = data[mine : mine + 68]  # in place of somebody else
    if mine != first:
        with pytest.raises(DecodeError, match="twice, or out of order"):
            state.on_roster(bytes(data))


def u32_at(roster: bytearray, client: int) -> int:
    """Where the entry of ``client`` begins."""
    return next(
        place
        for place in range(70, len(roster), 68)
        if int.from_bytes(roster[place : place + 4], "big") == client
    )


@RINGS
@pytest.mark.parametrize("size", [4, 11, 13, 16])
def test_a_size_for_which_another_graph_is_planned_is_refused(params: Params, size: int) -> None:
    roster, state = at_roster(params)
    assert params.plan(size).degree != params.plan(20).degree
    if size <= len(roster.entries):
        with pytest.raises(DecodeError, match="another size or hash"):
            state.on_roster(replace(roster, part_of=(size, roster.digest())).to_bytes())
        return
    refuses(state, replace(roster, part_of=(size, roster.digest())), "are planned for")


def test_a_sparse_roster_where_all_would_know_each_other_is_refused() -> None:
    params = Params(clients=20, threshold=11, words=WORDS)
    one = Round(agreement_of(params))
    rosters, _ = one.at_rosters()
    roster = Roster.from_bytes(rosters[ME], expect=one.agreement.header)
    few = {client: roster.entries[client] for client in range(1, 16)}
    refuses(
        one.states[ME],
        replace(roster, entries=few, part_of=(20, roster.digest())),
        "15 of 20 clients in the roster",
    )


def test_a_whole_roster_where_neighbours_are_planned_is_refused() -> None:
    one = Round(agreement_of(RING))
    keys = one.keys()
    whole = Roster(header=one.agreement.header, agreement=one.agreement.tag, entries=keys._keys)
    refuses(one.states[ME], whole, "19 neighbours in the roster, 6 are planned")


@pytest.mark.parametrize("size", [21, 22, 1000, 2**32 - 1])
def test_more_clients_than_the_lanes_hold_are_refused(size: int) -> None:
    roster, state = at_roster()
    refuses(
        state, replace(roster, part_of=(size, roster.digest())), f"{size} clients .* at most 20"
    )


def test_fewer_clients_than_the_minimum_are_refused() -> None:
    roster, state = at_roster(replace(RING, minimum_survivors=20))
    refuses(state, replace(roster, part_of=(19, roster.digest())), "19 clients .* 20 needed")


def test_a_size_for_which_there_is_no_graph_is_the_servers_fault() -> None:
    params = Params(clients=9, rates=Rates(corrupt_fraction="0.4", dropout="0.5"), words=WORDS)
    one = Round(agreement_of(params))
    rosters, _ = one.at_rosters()
    roster = Roster.from_bytes(rosters[ME], expect=one.agreement.header)
    entries = {client: roster.entries[client] for client in range(8)}
    refuses(one.states[ME], replace(roster, entries=entries), "no graph among the clients")


def at_boxes(params: Params = RING) -> tuple[ShareBoxes, AwaitBoxes]:
    one = Round(agreement_of(params))
    boxes, _ = one.at_boxes()
    return ShareBoxes.from_bytes(boxes[ME], expect=one.agreement.header), one.states[ME]


@RINGS
def test_fewer_boxes_than_the_threshold_are_refused(params: Params) -> None:
    message, state = at_boxes(params)
    t = params.plan(20).threshold
    some = dict(list(message.boxes.items())[: t - 1])
    with pytest.raises(RemoteProtocolError, match=f"{t - 1} neighbours have shared, {t} needed"):
        state.on_boxes(replace(message, boxes=some).to_bytes(), input_of(ME))
    enough = dict(list(message.boxes.items())[:t])
    frames, after = state.on_boxes(replace(message, boxes=enough).to_bytes(), input_of(ME))
    assert len(list(frames)) == 1
    assert after.peers == enough.keys() | {ME}


def test_a_box_of_somebody_who_is_no_neighbour_is_refused() -> None:
    message, state = at_boxes()
    boxes = dict(message.boxes)
    stranger = min(set(range(20)) - boxes.keys() - {ME})
    boxes[stranger] = boxes[min(boxes)]
    with pytest.raises(RemoteProtocolError, match=rf"not in the roster: \[{stranger}\]"):
        state.on_boxes(replace(message, boxes=boxes).to_bytes(), input_of(ME))


def at_survivors(params: Params = RING, silent: int = 0) -> AwaitSurvivors:
    """The state of a client that got no boxes from ``silent`` neighbours."""
    message, state = at_boxes(params)
    boxes = dict(list(message.boxes.items())[silent:])
    _, after = state.on_boxes(replace(message, boxes=boxes).to_bytes(), input_of(ME))
    return after


def named(state: AwaitSurvivors, alive: set[int]) -> Any:
    near = frozenset(alive & set(state.members))
    message = Survivors(
        header=state.agreement.header,
        alive=near,
        members=state.members,
        unseen=len(alive) - len(near),
    ).to_bytes()
    active = state.agreement.params.active
    return (state.sign_survivors if active else state.on_survivors)(message)


@RINGS
def test_fewer_neighbours_alive_than_the_threshold_are_refused(params: Params) -> None:
    state = at_survivors(params)
    t = params.plan(20).threshold
    near = sorted(state.peers - {ME})
    everybody = set(range(20))
    with pytest.raises(RemoteProtocolError, match=f"{t - 1} neighbours alive, {t} needed"):
        named(state, everybody - set(near[t - 1 :]))
    with pytest.raises(RemoteProtocolError, match="we are named as gone"):
        named(state, everybody - {ME})
    assert named(state, everybody - set(near[t:]))


@RINGS
def test_fewer_survivors_than_the_minimum_are_refused_as_the_server_counts_them(
    params: Params,
) -> None:
    state = at_survivors(replace(params, minimum_survivors=18))
    near = sorted(state.peers)
    far = sorted(set(range(20)) - state.peers)
    with pytest.raises(RemoteProtocolError, match="17 alive, at least 18 needed"):
        named(state, set(near) | set(far[: 17 - len(near)]))
    assert named(state, set(near) | set(far[: 18 - len(near)]))


@RINGS
def test_a_neighbour_alive_whose_box_we_never_got_is_refused(params: Params) -> None:
    state = at_survivors(params, silent=1)
    (missing,) = state.silent
    with pytest.raises(RemoteProtocolError, match=rf"alive, never shared: \[{missing}\]"):
        named(state, set(range(20)))
    assert named(state, set(range(20)) - {missing})


def test_clients_that_are_no_neighbours_may_be_alive_or_not_and_it_changes_nothing() -> None:
    answers = set()
    for gone in (set[int](), {max(set(range(20)) - at_survivors().peers)}):
        answers.add(named(at_survivors(), set(range(20)) - gone))
    assert len(answers) == 1


# Masks


@pytest.mark.parametrize(
    "params",
    [RING, Params(clients=6, threshold=4, words=WORDS)],
    ids=["sparse", "complete"],
)
def test_no_seed_ever_masks_two_vectors(params: Params) -> None:
    used: dict[bytes, list[tuple[Any, int, bytes, bool]]] = {}
    streams = set()
    for session in (bytes(16), b"another session!"):
        for number in range(1, 5):
            agreement = replace(agreement_of(params), round=number, session=session)
            one = Round(agreement, {1: MASK, 2: REVEAL}, entropy=lambda _: system)
            one.run()
            assert {client for client, _ in one.masks} == set(range(params.clients)) - {1}
            for client, mask in one.masks:
                place = (agreement.session, number)
                seed = mask.seed.expose()
                used.setdefault(seed, []).append((place, client, mask.label, mask.subtract))
                streams.add((seed, mask.label, client))
    assert len(streams) == sum(map(len, used.values()))
    for uses in used.values():
        assert len({place for place, _, _, _ in uses}) == 1
        assert len({label for _, _, label, _ in uses}) == 1
        if len(uses) == 2:  # the two ends of one pair, and there they cancel
            (_, one_end, _, first), (_, other_end, _, second) = uses
            assert one_end != other_end
            assert first != second
        else:
            assert len(uses) == 1
    selves = [uses for uses in used.values() if b" self " in uses[0][2]]
    assert all(len(uses) == 1 for uses in selves)
    assert len(selves) == 8 * (params.clients - 1)


def test_a_graph_has_the_plan_of_those_who_advertised_not_of_those_expected() -> None:
    one = Round(agreement_of(replace(RING, clients=40)), dict.fromkeys(range(20, 40), ADVERTISE))
    _, shares = one.at_rosters()
    assert isinstance(shares._round.graph, Harary)
    assert all(len(shares._round.graph.neighbours(c)) == 6 for c in range(20))
    few = Round(agreement_of(replace(RING, clients=40)), dict.fromkeys(range(3, 40), ADVERTISE))
    assert isinstance(few.at_rosters()[1]._round.graph, Complete)


@RINGS
def test_the_bytes_of_a_client_in_a_sparse_round_do_not_grow_with_its_strangers(
    params: Params,
) -> None:
    one = Round(agreement_of(params))
    rosters, shares = one.at_rosters()
    k, signed = (8, 64) if params.active else (6, 0)
    message, _ = one.states[ME].on_roster(rosters[ME])
    assert len(rosters[ME]) == 70 + (k + 1) * (68 + signed)
    assert len(message) == 54 + 96 * k
    assert shares.receive(message) == ME


def test_a_sparse_round_through_the_wrong_door_is_refused() -> None:
    one = Round(agreement_of(RING))
    _, vectors = one.at_boxes()
    with pytest.raises(LocalProtocolError, match="nothing is signed"):
        vectors.close_to_sign()
