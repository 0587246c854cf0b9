"""Against a server that may lie: what must be signed, by whom, over what, and how often."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from protocols.bonawitz import (
    Agreement,
    AwaitSignatures,
    AwaitSurvivors,
    CollectKeys,
    CollectSignatures,
    CollectVectors,
    Params,
    Rates,
    join,
)
from protocols.bonawitz.messages import (
    Advertise,
    Roster,
    Signatures,
    SignedSurvivors,
    Survivors,
)
from protocols.errors import (
    DecodeError,
    InputError,
    LocalProtocolError,
    RemoteProtocolError,
    TooFewSurvivors,
)
from protocols.testing import insecure_identities, played
from protocols.wire import write_subset

CLIENTS = range(6)
ME = 2
WORDS = np.arange(4, dtype=np.uint64)
COMPLETE = Params(clients=6, threshold=5, words=4, active=True)  # 2 * 5 > 6 + 2
RATED = Params(clients=12, rates=Rates(corrupt_fraction=0.1, dropout=0.1), words=4, active=True)
IDENTITIES = insecure_identities(range(13))
BOTH = pytest.mark.parametrize("params", [COMPLETE, RATED], ids=["threshold", "rates"])


def agreement_of(params: Params) -> Agreement:
    return Agreement(params=params, session=bytes(range(16)), round=2, public_digest=bytes(32))


AGREEMENT = agreement_of(COMPLETE)
HEADER = AGREEMENT.header


def publics(count: int = 6) -> dict[int, bytes]:
    return {n: IDENTITIES[n].public for n in range(count)}


class Round:
    """An honest round of clients that do not trust the server."""

    def __init__(self, params: Params = COMPLETE) -> None:
        self.agreement = agreement_of(params)
        self.header = self.agreement.header
        inputs = dict.fromkeys(range(params.clients), WORDS)
        self.made = played(self.agreement, inputs, "roster")
        self.rosters, self.states = self.made.rosters, dict(self.made.states)

    def at_roster(self) -> Roster:
        return Roster.from_bytes(self.rosters[ME], expect=self.header, signed=True)

    def at_vectors(self) -> CollectVectors:
        made = self.made.until("boxes")
        frames, self.states = made.answers()
        for sent in frames.values():
            made.server.receive(sent)
        return made.server

    def at_signatures(self) -> tuple[CollectSignatures, dict[int, bytes]]:
        made = self.made.until("survivors")
        answers, self.states = made.answers()
        return made.server, answers

    def at_the_end(self) -> tuple[AwaitSignatures, dict[int, bytes]]:
        """The state of ``ME`` that waits for signatures, and all of them."""
        _, answers = self.at_signatures()
        header = self.agreement.header
        return self.states[ME], {
            client: SignedSurvivors.from_bytes(answer, expect=header).signature
            for client, answer in answers.items()
        }


def shown(signatures: Mapping[int, bytes]) -> bytes:
    return Signatures(header=HEADER, signatures=dict(signatures)).to_bytes()


# Before the round


def test_identities_are_given_where_something_is_signed_and_nowhere_else() -> None:
    mine, trusted = IDENTITIES[1], agreement_of(replace(COMPLETE, active=False))
    with pytest.raises(InputError, match="if active is True, and only then"):
        join(AGREEMENT, 1)
    with pytest.raises(InputError, match="if active is True, and only then"):
        join(AGREEMENT, 1, identity=mine)
    with pytest.raises(InputError, match="if active is True, and only then"):
        join(AGREEMENT, 1, identities=publics())
    with pytest.raises(InputError, match="if active is True, and only then"):
        join(AGREEMENT, 1, identity=mine, identities={})
    with pytest.raises(InputError, match="if active is True, and only then"):
        join(trusted, 1, identity=mine, identities=publics())
    with pytest.raises(InputError, match=r"^identities must be given"):
        CollectKeys(AGREEMENT)
    with pytest.raises(InputError, match=r"^identities must be given"):
        CollectKeys(trusted, publics())


@pytest.mark.parametrize("known", [{0: b"", 2: b""}, {1: IDENTITIES[2].public}])
def test_our_own_identity_must_be_the_one_that_others_were_given(known: dict[int, bytes]) -> None:
    with pytest.raises(InputError, match="must be that of client 1 among the identities"):
        join(AGREEMENT, 1, identity=IDENTITIES[1], identities=known)


@pytest.mark.parametrize(
    "change",
    [{"active": False, "max_corrupt": 1}, {"max_corrupt": -1}, {"max_corrupt": 6}],
    ids=str,
)
def test_a_number_of_corrupt_clients_that_means_nothing_is_refused(change: Any) -> None:
    with pytest.raises(InputError, match="corrupt"):
        replace(COMPLETE, **change)


def test_a_third_may_be_corrupt_where_nothing_else_was_agreed() -> None:
    assert COMPLETE.corrupted == COMPLETE.clients // 3 == 2
    assert replace(COMPLETE, max_corrupt=0).corrupted == 0
    assert replace(COMPLETE, active=False).corrupted == 0
    assert RATED.corrupted == 1


# Keys


@pytest.mark.parametrize("swapped", ["mask", "seal", "signature"])
@BOTH
def test_keys_that_their_identity_did_not_sign_are_refused(params: Params, swapped: str) -> None:
    one = Round(params)
    roster = one.at_roster()
    peer = max(roster.entries.keys() - {ME})
    other = Advertise.from_bytes(
        join(replace(one.agreement, params=replace(COMPLETE, active=False)), 9)[0],
        expect=one.agreement.header,
    ).keys
    changed = {"mask": other.mask, "seal": other.seal, "signature": bytes(64)}[swapped]
    entries = {**roster.entries, peer: replace(roster.entries[peer], **{swapped: changed})}
    with pytest.raises(RemoteProtocolError, match=f"client {peer} are not signed by its identity"):
        one.states[ME].on_roster(replace(roster, entries=entries).to_bytes())
    one.states[ME].on_roster(one.rosters[ME])


def test_keys_under_the_name_of_another_client_are_refused() -> None:
    one = Round()
    roster = one.at_roster()
    entries = {**roster.entries, 4: roster.entries[5], 5: roster.entries[4]}
    with pytest.raises(RemoteProtocolError, match="client 4 are not signed by its identity"):
        one.states[ME].on_roster(replace(roster, entries=entries).to_bytes())


def test_the_two_keys_of_a_client_do_not_change_places() -> None:
    one = Round()
    roster = one.at_roster()
    theirs = roster.entries[4]
    entries = {**roster.entries, 4: replace(theirs, mask=theirs.seal, seal=theirs.mask)}
    with pytest.raises(RemoteProtocolError, match="client 4 are not signed by its identity"):
        one.states[ME].on_roster(replace(roster, entries=entries).to_bytes())


def test_a_client_without_identity_is_refused_by_clients_and_turned_away_by_the_server() -> None:
    wider = replace(COMPLETE, clients=7)
    agreement = agreement_of(wider)
    message, _ = join(agreement, 6, identity=IDENTITIES[6], identities={6: IDENTITIES[6].public})
    collect = CollectKeys(agreement, publics())
    with pytest.raises(RemoteProtocolError, match="client 6 has no identity"):
        collect.receive(message)
    made = played(agreement, dict.fromkeys(CLIENTS, WORDS), "roster")
    roster = made.roster
    theirs = Advertise.from_bytes(message, expect=HEADER, signed=True).keys
    with pytest.raises(RemoteProtocolError, match="client 6 of the roster has no identity"):
        made.states[ME].on_roster(replace(roster, entries={**roster.entries, 6: theirs}).to_bytes())


@pytest.mark.parametrize(
    "change", [{"round": 1}, {"session": bytes(16)}, {"public_digest": b"x" * 32}], ids=str
)
def test_a_server_turns_away_keys_that_were_signed_for_another_round(change: Any) -> None:
    elsewhere = replace(AGREEMENT, **change)
    message, _ = join(elsewhere, 1, identity=IDENTITIES[1], identities=publics())
    theirs = Advertise.from_bytes(message, expect=elsewhere.header, signed=True)
    moved = replace(theirs, header=HEADER).to_bytes()
    with pytest.raises(RemoteProtocolError, match="client 1 are not signed by its identity"):
        CollectKeys(AGREEMENT, publics()).receive(moved)


def test_keys_without_a_signature_are_no_message_here_and_with_one_nowhere_else() -> None:
    unsigned = join(agreement_of(replace(COMPLETE, active=False)), 1)[0]
    signed = join(AGREEMENT, 1, identity=IDENTITIES[1], identities=publics())[0]
    assert len(signed) == len(unsigned) + 64 == 170
    with pytest.raises(DecodeError):
        CollectKeys(AGREEMENT, publics()).receive(unsigned)
    with pytest.raises(DecodeError):
        CollectKeys(agreement_of(replace(COMPLETE, active=False))).receive(signed)


@pytest.mark.parametrize(("threshold", "corrupt"), [(4, None), (4, 2), (5, 4), (3, 0)])
def test_a_threshold_too_low_for_the_corrupt_is_refused(
    threshold: int, corrupt: int | None
) -> None:
    with pytest.raises(InputError, match=f"threshold {threshold} is no majority of 6"):
        replace(COMPLETE, threshold=threshold, max_corrupt=corrupt)


@pytest.mark.parametrize(("threshold", "corrupt"), [(5, None), (4, 1), (6, 5), (4, 0)])
def test_the_lowest_threshold_above_the_corrupt_is_enough(
    threshold: int, corrupt: int | None
) -> None:
    one = Round(replace(COMPLETE, threshold=threshold, max_corrupt=corrupt))
    one.at_roster()
    one.states[ME].on_roster(one.rosters[ME])


def test_a_server_that_may_lie_is_not_answered_with_shares_at_once() -> None:
    one = Round()
    survivors, _ = one.at_vectors().close_to_sign()
    with pytest.raises(LocalProtocolError, match="sign the survivors before revealing"):
        one.states[ME].on_survivors(survivors[ME])
    one.states[ME].sign_survivors(survivors[ME])


def test_an_honest_server_of_such_clients_lets_them_sign() -> None:
    vectors = Round().at_vectors()
    with pytest.raises(LocalProtocolError, match="close_to_sign"):
        vectors.close()
    vectors.close_to_sign()


def test_a_client_that_trusts_the_server_signs_nothing() -> None:
    trusted = agreement_of(replace(COMPLETE, active=False))
    state = AwaitSurvivors(
        agreement=trusted, me=1, size=6, roster=bytes(32), peers=frozenset(CLIENTS),
        members=tuple(CLIENTS), silent=frozenset(), shares=None,  # type: ignore[arg-type]  # not reached
    )  # fmt: skip
    message = Survivors(header=HEADER, alive=frozenset(CLIENTS), members=CLIENTS).to_bytes()
    with pytest.raises(LocalProtocolError, match="nothing is signed"):
        state.sign_survivors(message)


# The survivors that a client signs are checked as those it reveals for


@pytest.mark.parametrize(
    ("alive", "why"),
    [
        ({0, 1, 3, 4, 5}, "we are named as gone"),
        ({0, 1, 2, 3}, "4 alive, at least 5 needed"),
    ],
)
def test_a_set_that_would_not_be_opened_is_not_signed(alive: set[int], why: str) -> None:
    one = Round()
    one.at_vectors()
    message = Survivors(header=HEADER, alive=frozenset(alive), members=CLIENTS).to_bytes()
    with pytest.raises(RemoteProtocolError, match=why):
        one.states[ME].sign_survivors(message)


def test_one_set_is_signed_and_no_other() -> None:
    one = Round()
    survivors, _ = one.at_vectors().close_to_sign()
    one.states[ME].sign_survivors(survivors[ME])
    fewer = Survivors(header=HEADER, alive=frozenset(range(5)), members=CLIENTS).to_bytes()
    for message in (fewer, survivors[ME]):
        with pytest.raises(LocalProtocolError, match="already answered"):
            one.states[ME].sign_survivors(message)


# Signatures


def test_as_many_signatures_as_the_threshold_with_our_own_open_the_shares() -> None:
    state, signed = Round().at_the_end()
    others = {client: signed[client] for client in (0, 1, 3, 5)}
    assert state.on_signatures(shown(others))


@pytest.mark.parametrize("with_ours", [False, True])
def test_one_signature_less_opens_nothing(with_ours: bool) -> None:
    state, signed = Round().at_the_end()
    some = {client: signed[client] for client in (0, 1, 3)}
    if with_ours:  # it counts once, shown or not
        some[ME] = signed[ME]
    with pytest.raises(RemoteProtocolError, match=r"4 clients have signed .* 5 needed"):
        state.on_signatures(shown(some))
    state.on_signatures(shown(signed))


@BOTH
def test_what_is_no_signature_of_a_survivor_over_our_set_counts_nothing(params: Params) -> None:
    state, signed = Round(params).at_the_end()
    near = sorted(state.peers - {ME})
    spared = near[0]
    enough = params.plan(params.clients).quorum - 1  # and its own
    good = {client: signed[client] for client in near[1:enough]}
    context = state.agreement.context(state.roster)
    label = context.survivors()
    body = Survivors(header=HEADER, alive=state.alive, members=state.members).body()
    other = write_subset(state.alive - {spared}, state.members)
    elsewhere = replace(state.agreement, round=3).context(state.roster).survivors()
    key = IDENTITIES[spared]
    forged = {
        "zeros": bytes(64),
        "of another client": signed[near[1]],
        "of another set": key.sign(label, other),
        "of another round": key.sign(elsewhere, body),
        "of another roster": key.sign(state.agreement.context(bytes(32)).survivors(), body),
        "for another purpose": key.sign(state.agreement.advertised_by()(spared), body),
        "of another key": IDENTITIES[12].sign(label, body),
        "a bit changed": bytes([signed[spared][0] ^ 1]) + signed[spared][1:],
        "s not reduced": signed[spared][:32] + unreduced(signed[spared][32:]),
    }
    for name, signature in forged.items():
        with pytest.raises(RemoteProtocolError, match="clients have signed the survivors"):
            pytest.fail(f"{name}: {state.on_signatures(shown({**good, spared: signature}))!r}")
    assert state.on_signatures(shown({**good, spared: signed[spared]}))


def unreduced(scalar: bytes) -> bytes:
    """The same scalar modulo the group's order, in its second encoding [RFC 8032, 5.1.7]."""
    order = 2**252 + 27742317777372353535851937790883648493
    return (int.from_bytes(scalar, "little") + order).to_bytes(32, "little")


def test_who_is_gone_signs_in_vain() -> None:
    one = Round()
    one.at_vectors()
    message = Survivors(header=HEADER, alive=frozenset(range(5)), members=CLIENTS).to_bytes()
    signed = {}
    for client in range(5):
        answer, one.states[client] = one.states[client].sign_survivors(message)
        signed[client] = SignedSurvivors.from_bytes(answer, expect=HEADER).signature
    state = one.states[ME]
    label = AGREEMENT.context(state.roster).survivors()
    body = Survivors(header=HEADER, alive=state.alive, members=state.members).body()
    five = IDENTITIES[5].sign(label, body)
    with pytest.raises(RemoteProtocolError, match="4 clients have signed"):
        state.on_signatures(shown({0: signed[0], 1: signed[1], 3: signed[3], 5: five}))
    assert state.on_signatures(shown(signed))


def test_a_signature_listed_twice_is_no_message() -> None:
    state, signed = Round().at_the_end()
    data = bytearray(shown({client: signed[client] for client in (0, 1, 3, 4)}))
    data[-68:] = data[-136:-68]
    with pytest.raises(DecodeError, match="twice, or out of order"):
        state.on_signatures(bytes(data))


def test_the_answer_is_for_the_set_that_was_signed_and_leaves_once() -> None:
    state, signed = Round().at_the_end()
    state.on_signatures(shown(signed))
    with pytest.raises(LocalProtocolError, match="already answered"):
        state.on_signatures(shown(signed))


# The server's side


def test_a_survivor_signs_once_and_nobody_else_does() -> None:
    collect, answers = Round().at_signatures()
    collect.receive(answers[0])
    with pytest.raises(RemoteProtocolError, match="client 0 has already answered"):
        collect.receive(answers[0])
    message = SignedSurvivors.from_bytes(answers[0], expect=HEADER)
    with pytest.raises(RemoteProtocolError, match="client 9 is not expected"):
        collect.receive(replace(message, sender=9).to_bytes())


def test_too_few_signatures_end_the_round_before_anything_is_revealed() -> None:
    collect, answers = Round().at_signatures()
    for client in range(4):
        collect.receive(answers[client])
    with pytest.raises(TooFewSurvivors, match="4 clients left after CollectSignatures, 5 needed"):
        collect.close()


@BOTH
def test_signatures_go_to_those_who_signed_and_from_whom_they_count(params: Params) -> None:
    one = Round(params)
    collect, answers = one.at_signatures()
    for client in list(answers)[1:]:
        collect.receive(answers[client])
    messages, reveals = collect.close()
    assert messages.keys() == answers.keys() - {0}
    for client, message in messages.items():
        found = Signatures.from_bytes(message, expect=HEADER).signatures.keys()
        expected = one.states[client].peers - {0}
        assert found == expected
        if params is COMPLETE:
            reveals.receive(one.states[client].on_signatures(message))
    if params is COMPLETE:
        assert reveals.close().words.tolist() == (6 * WORDS).tolist()


def test_a_forged_signature_costs_its_sender_the_round_and_nobody_else() -> None:
    one = Round()
    collect, answers = one.at_signatures()
    for client in range(1, 6):
        collect.receive(answers[client])
    collect.receive(SignedSurvivors(header=HEADER, sender=0, signature=bytes(64)).to_bytes())
    messages, reveals = collect.close()
    for client in range(1, 6):
        reveals.receive(one.states[client].on_signatures(messages[client]))
    assert reveals.close().words.tolist() == (6 * WORDS).tolist()
