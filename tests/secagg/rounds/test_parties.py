"""The client half of a round, driven by the server half: as it is, and from record to record."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from protocols import bonawitz, ckks
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.primitives.prg import SEED_SIZE
from protocols.primitives.sign import SigningKey
from protocols.secrets import Secret
from secagg import Ckks, FixedPoint, Layout, Segment
from secagg.errors import NodeError
from secagg.rounds import BonawitzClient, CkksClient, MemoryBurn, SharedCkksClient
from secagg.rounds.parties import NO_STATE
from secagg.rounds.relay import (
    Relay,
    StageRequests,
    Total,
    advance,
    relay_bonawitz,
    relay_shared_ckks,
    relay_threshold_ckks,
)
from secagg.stage import UNSIGNED, Stage

CLIENTS = range(6)
LAYOUT = Layout(segments=(Segment(name="x", entries=3, codec=FixedPoint(clip=1.0)),), clients=6)

Make = Callable[[int, Secret | None], Any]


class Asked:
    """A client's vector, and how often it was asked for."""

    def __init__(self, vector: Any) -> None:
        self.vector, self.times = vector, 0

    def __call__(self) -> Any:
        self.times += 1
        return self.vector


def masked(*, active: bool = False) -> bonawitz.Agreement:
    params = bonawitz.Params(clients=6, threshold=5 if active else 4, words=3, active=active)
    return bonawitz.Agreement(params=params, session=bytes(16), round=0, public_digest=bytes(32))


def sealed(model: ckks.Model = ckks.Model.THRESHOLD) -> ckks.Agreement:
    params = Ckks(model=model).params(LAYOUT, len(CLIENTS))
    return ckks.Agreement(params=params, session=bytes(16), public_digest=bytes(32))


def reals(words: Any) -> Any:
    return sealed().params.encoding.decode_reals(words)


WORDS = {client: Asked(np.full(3, client + 1, np.uint64)) for client in CLIENTS}
REALS = {client: Asked(np.full(3, 0.1 * client)) for client in CLIENTS}


def carry(relay: Relay, make: Make) -> tuple[Total, list[tuple[int, Stage]]]:
    """Every answer by a party that is made for it, from the record of the one before."""
    records: dict[int, Secret | None] = dict.fromkeys(CLIENTS)
    asked = []
    while isinstance(ask := advance(relay), StageRequests):
        for client, request in ask.requests.items():
            party = make(client, records[client])
            ask.receive(party.answer(ask.stage, request))
            records[client] = party.into_record()
            asked.append((client, ask.stage))
    assert not any(records.values())  # after the last answer nothing is kept
    return ask, asked


def of_masks(agreement: bonawitz.Agreement) -> tuple[Relay, Make]:
    burn, keys = MemoryBurn(), {c: SigningKey(Secret(bytes([c + 1]) * SEED_SIZE)) for c in CLIENTS}
    identities = {c: key.public for c, key in keys.items()} if agreement.params.active else None

    def make(client: int, record: Secret | None) -> BonawitzClient:
        identity = keys[client] if agreement.params.active else None
        party = BonawitzClient(
            agreement, client, WORDS[client], identity=identity, identities=identities
        )
        return party.from_record(record, burn=burn) if record else party

    return relay_bonawitz(agreement, CLIENTS, identities=identities), make


def of_keys(agreement: ckks.Agreement, **options: Any) -> tuple[Relay, Make]:
    burn = MemoryBurn()

    def make(client: int, record: Secret | None) -> CkksClient:
        party = CkksClient(agreement, client, REALS[client], burn=burn)
        return party.from_record(record) if record else party

    return relay_threshold_ckks(agreement, CLIENTS, **options), make


@pytest.fixture(autouse=True)
def _unasked() -> None:
    for source in (*WORDS.values(), *REALS.values()):
        source.times = 0


@pytest.mark.parametrize("active", [False, True])
def test_masks_go_from_record_to_record_through_a_whole_round(active: bool) -> None:
    total, asked = carry(*of_masks(masked(active=active)))
    assert total.values.tolist() == [21] * 3
    assert asked == [(c, stage) for stage in (Stage if active else UNSIGNED) for c in CLIENTS]
    assert [source.times for source in WORDS.values()] == [1] * 6


def test_holders_of_a_key_go_from_record_to_record_and_others_need_none() -> None:
    total, asked = carry(*of_keys(sealed()))
    np.testing.assert_allclose(reals(total.values), 1.5, atol=6 * 2**-12)
    assert [client for client, stage in asked if stage is Stage.MASK] == list(CLIENTS)
    assert {client for client, stage in asked if stage is not Stage.MASK} == set(range(5))
    assert [source.times for source in REALS.values()] == [1] * 6


def test_who_uploads_again_computes_nothing_for_it() -> None:
    """Of clients without a part of the key too: the burn record is taken before the work."""
    relay, make = of_keys(sealed())
    ask, parties = first(relay, make, Stage.MASK)
    client = max(CLIENTS)
    ask.receive(parties[client].answer(ask.stage, ask.requests[client]))
    assert REALS[client].times == 1
    with pytest.raises(LocalProtocolError, match="another vector"):
        make(client, None).answer(ask.stage, ask.requests[client])
    assert REALS[client].times == 1


def test_a_holder_that_is_known_to_be_gone_is_not_asked_to_open() -> None:
    relay, make = of_keys(sealed(), lost=lambda: {1})
    ask, parties = first(relay, make, Stage.REVEAL)
    assert set(ask.requests) == {0, 2, 3, 4}
    for client, request in ask.requests.items():
        ask.receive(parties[client].answer(ask.stage, request))
    total = advance(relay)
    assert isinstance(total, Total)
    assert total.survivors == tuple(CLIENTS)
    np.testing.assert_allclose(reals(total.values), 1.5, atol=6 * 2**-12)


def first(relay: Relay, make: Make, until: Stage) -> tuple[StageRequests, dict[int, Any]]:
    parties: dict[int, Any] = {client: make(client, None) for client in CLIENTS}
    while isinstance(ask := advance(relay), StageRequests) and ask.stage is not until:
        for client, request in ask.requests.items():
            ask.receive(parties[client].answer(ask.stage, request))
    assert isinstance(ask, StageRequests)
    return ask, parties


@pytest.mark.parametrize("half", [of_masks, of_keys])
def test_the_vector_is_asked_for_when_a_good_request_came_and_not_before(
    half: Callable[[Any], tuple[Relay, Make]],
) -> None:
    sources: Mapping[int, Asked] = WORDS if half is of_masks else REALS
    ask, parties = first(*half(masked() if half is of_masks else sealed()), Stage.MASK)
    with pytest.raises(RemoteProtocolError):
        parties[0].answer(Stage.MASK, ask.requests[0][:-1])
    assert sources[0].times == 0
    parties[0].answer(Stage.MASK, ask.requests[0])
    assert sources[0].times == 1


@pytest.mark.parametrize("half", [of_masks, of_keys])
@pytest.mark.parametrize("stage", [Stage.SHARE, Stage.REVEAL])
def test_a_stage_that_is_not_next_is_refused(
    half: Callable[[Any], tuple[Relay, Make]], stage: Stage
) -> None:
    _, make = half(masked() if half is of_masks else sealed())
    party = make(0, None)
    with pytest.raises(NodeError, match=NO_STATE):
        party.answer(stage, b"")
    party.answer(Stage.ADVERTISE, b"")
    with pytest.raises(NodeError, match="asked for stage reveal, our state is AwaitRoster"):
        party.answer(Stage.REVEAL, b"")


def test_a_record_answers_under_its_own_agreement() -> None:
    relay, make = of_masks(masked())
    _, parties = first(relay, make, Stage.MASK)
    other = replace(masked(), public_digest=bytes(range(32)))
    with pytest.raises(NodeError, match="of another proposal"):
        BonawitzClient(other, 0, WORDS[0]).from_record(parties[0].into_record(), burn=MemoryBurn())


def test_keys_of_a_record_answer_under_what_became_known_since() -> None:
    known, early = (
        replace(masked(), public_digest=bytes(range(32))),
        BonawitzClient(masked(), 0, WORDS[0]),
    )
    (keys,) = early.answer(Stage.ADVERTISE, b"")
    record = early.into_record()
    assert record is not None
    relay, make = of_masks(known)
    ask = advance(relay)
    assert isinstance(ask, StageRequests)
    ask.receive([keys])
    for client in CLIENTS[1:]:
        ask.receive(make(client, None).answer(Stage.ADVERTISE, b""))
    ask = advance(relay)
    assert isinstance(ask, StageRequests)
    party = BonawitzClient(known, 0, WORDS[0]).from_record(record, burn=MemoryBurn())
    assert ask.receive(party.answer(Stage.SHARE, ask.requests[0])) == 0


def test_a_copy_of_a_record_answers_no_second_request() -> None:
    agreement, burn = masked(), MemoryBurn()
    relays = [relay_bonawitz(agreement, CLIENTS) for _ in range(2)]
    ours = BonawitzClient(agreement, 0, WORDS[0])
    (keys,) = ours.answer(Stage.ADVERTISE, b"")
    record = ours.into_record()
    assert record is not None
    requests = []
    for relay in relays:  # the peers' keys differ
        ask = advance(relay)
        assert isinstance(ask, StageRequests)
        ask.receive([keys])
        for client in CLIENTS[1:]:
            ask.receive(BonawitzClient(agreement, client, WORDS[0]).answer(Stage.ADVERTISE, b""))
        ask = advance(relay)
        assert isinstance(ask, StageRequests)
        requests.append(ask.requests[0])
    kept = record.expose()
    for request, refused in zip(requests, (False, True), strict=True):
        copy = BonawitzClient(agreement, 0, WORDS[0]).from_record(Secret(kept), burn=burn)
        if refused:
            with pytest.raises(RemoteProtocolError, match="was answered for another request"):
                copy.answer(Stage.SHARE, request)
        else:
            copy.answer(Stage.SHARE, request)


def test_whose_uploads_an_answer_opens_is_told_before_it_leaves() -> None:
    agreement, told = sealed(), []
    parties = {
        client: CkksClient(
            agreement, client, REALS[client], burn=MemoryBurn(), opens=lambda s: told.append(set(s))
        )
        for client in CLIENTS
    }
    relay = relay_threshold_ckks(agreement, CLIENTS)
    ask, _ = first(relay, lambda client, _: parties[client], Stage.REVEAL)
    assert not told
    parties[0].answer(Stage.REVEAL, ask.requests[0])
    assert told == [set(CLIENTS)]


def test_under_a_shared_key_the_server_gets_uploads_and_every_client_opens_the_sum() -> None:
    from protocols.ckks.client import Published
    from protocols.ckks.keys import SharedKey

    agreement = sealed(ckks.Model.SHARED_KEY)
    key = SharedKey(agreement, Secret(bytes(SEED_SIZE)))
    parties = {
        client: SharedCkksClient(agreement, client, REALS[client], key, burn=MemoryBurn())
        for client in CLIENTS
    }
    relay = relay_shared_ckks(agreement, CLIENTS, key=key.digest)
    ask = advance(relay)
    assert isinstance(ask, StageRequests)
    for client in CLIENTS[:-1]:
        ask.receive(parties[client].answer(ask.stage, ask.requests[client]))
    message = advance(relay)
    assert isinstance(message, bytes)
    opened = [parties[client].open(message) for client in CLIENTS[:2]]
    for each in opened:
        assert isinstance(each, Published)
        np.testing.assert_allclose(reals(each.values), 1.0, atol=6 * 2**-12)
    parties[5].answer(Stage.MASK, b"")  # an upload that the sum does not name
    with pytest.raises(RemoteProtocolError, match="lacks our upload"):
        parties[5].open(message)
    with pytest.raises(NodeError, match="asked for stage reveal, a shared key has mask alone"):
        parties[0].answer(Stage.REVEAL, message)


def test_an_array_of_another_length_is_an_error_and_the_party_answers_no_more() -> None:
    ask, parties = first(*of_masks(masked()), Stage.MASK)
    WORDS[0].vector, whole = np.ones(2, np.uint64), WORDS[0].vector
    try:
        with pytest.raises(LocalProtocolError, match="2 words, 3 were agreed"):
            parties[0].answer(Stage.MASK, ask.requests[0])
    finally:
        WORDS[0].vector = whole
    with pytest.raises(LocalProtocolError, match="was already answered"):
        parties[0].answer(Stage.MASK, ask.requests[0])
