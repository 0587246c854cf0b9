"""Keys: made by commitment, bound to session and parameters, refused where anything is off."""

import copy
import hashlib
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from protocols.ckks import Engine
from protocols.ckks.client import (
    AwaitOpenings,
    Holder,
    encrypt,
    generate,
    restore,
)
from protocols.ckks.keys import CollectiveKey, SharedKey, arithmetic, commit
from protocols.ckks.messages import (
    Advertise,
    Entry,
    Opening,
    Openings,
    Roster,
    ShareBoxes,
    SharedSum,
)
from protocols.ckks.params import Agreement
from protocols.ckks.server import CollectCommitments, CollectOpenings
from protocols.entropy import system
from protocols.errors import (
    DecodeError,
    InputError,
    LocalProtocolError,
    RemoteProtocolError,
    TooFewSurvivors,
)
from protocols.secrets import Secret
from protocols.testing import (
    BurnInMemory,
    insecure_entropy,
    played_key,
    small_ckks,
    small_threshold,
)
from protocols.wire import with_checksum, without_checksum

HOLDERS = (2, 3, 5, 7)
SECRET = Secret(bytes(range(32)))


def agreed(engine: Engine = Engine.COEFFICIENTS) -> Agreement:
    params = small_threshold(engine, entries=100)
    return Agreement(params=params, session=bytes(range(16)), public_digest=bytes(32))


def shared(engine: Engine = Engine.COEFFICIENTS) -> Agreement:
    params = small_ckks(engine, entries=100, flooding=None)
    return Agreement(params=params, session=bytes(range(16)), public_digest=bytes(32))


AGREEMENT, SHARED = agreed(), shared()
PARAMS = AGREEMENT.params


class Making:
    """A key's making up to the openings, honest so far."""

    def __init__(
        self, engine: Engine = Engine.COEFFICIENTS, entropy: Any = insecure_entropy
    ) -> None:
        self.agreement = agreed(engine)
        self.header, self.params = self.agreement.key_header, self.agreement.params
        self.made = played_key(self.agreement, HOLDERS, "roster", entropy=entropy)
        self.advertised, self.roster = self.made.advertised, self.made.roster
        self.states, self.collect = dict(self.made.states), self.made.server
        self.opened: dict[int, bytes] = {}

    def open(self) -> tuple[bytes, dict[int, bytes], CollectiveKey]:
        made = self.made.until("openings")
        self.states, self.opened = dict(made.states), dict(made.opened)
        return made.shown, dict(made.boxes), made.key


def changed_roster(message: bytes, change: Callable[[dict[int, Entry]], object]) -> bytes:
    roster = Roster.from_bytes(message, expect=AGREEMENT.key_header)
    entries = dict(roster.entries)
    change(entries)
    return replace(roster, entries=entries).to_bytes()


# --- commit, then open ---


def test_everybody_adds_up_one_key(engine: Engine) -> None:
    making = Making(engine)
    message, boxes, servers = making.open()
    digests = {servers.digest, CollectiveKey.from_bytes(making.agreement, message).digest}
    for holder in HOLDERS:
        _, key = making.states[holder].on_openings(message, boxes[holder], burn=BurnInMemory())
        digests.add(key.digest)
        assert key.holders == HOLDERS
    assert len(digests) == 1


def test_a_commitment_is_the_hash_that_the_page_names() -> None:
    seed = hashlib.sha256(b"secagg/1 ckks common " + AGREEMENT.key_context()).digest()
    share, blind = bytes(range(200)), bytes(32)
    text = b"ckks key" + AGREEMENT.session + (7).to_bytes(4, "big") + seed + share + blind
    assert commit(AGREEMENT, 7, share, blind) == hashlib.sha256(text).digest()


def test_a_commitment_says_which_session_and_holder_and_hides_the_share() -> None:
    made = commit(AGREEMENT, 2, b"share", bytes(32))
    assert made != commit(AGREEMENT, 3, b"share", bytes(32))
    assert made != commit(replace(AGREEMENT, session=bytes(16)), 2, b"share", bytes(32))
    assert made != commit(AGREEMENT, 2, b"share", bytes(31) + b"\1")
    with pytest.raises(InputError, match="blind has 0 bytes"):
        commit(AGREEMENT, 2, b"share", b"")


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        (lambda entries: entries.pop(2), "lacks our entry"),
        (lambda entries: entries.update({2: entries[3]}), "lacks our entry"),
        (lambda entries: entries.pop(3), "3 holders in the roster, 4 were agreed"),
        (lambda entries: entries.update({9: entries[3]}), "5 holders in the roster"),
        (
            lambda entries: entries.update({3: replace(entries[3], seal_key=entries[2].seal_key)}),
            "one key stands twice",
        ),
        (
            lambda entries: entries.update({3: replace(entries[3], seal_key=bytes(32))}),
            "low order",
        ),
    ],
)
def test_a_roster_that_is_not_that_of_the_agreed_holders_is_refused(
    change: Callable[[dict[int, Entry]], object], refusal: str
) -> None:
    making = Making()
    with pytest.raises(RemoteProtocolError, match=refusal):
        making.states[2].on_roster(changed_roster(making.roster, change))
    making.states[2].on_roster(making.roster)  # it is as it was


def test_a_holder_opens_once() -> None:
    making = Making()
    making.states[2].on_roster(making.roster)
    with pytest.raises(LocalProtocolError, match="already answered"):
        making.states[2].on_roster(making.roster)


def test_a_missing_opening_ends_the_session() -> None:
    making = Making()
    for holder in HOLDERS[:-1]:
        making.collect.receive(making.states[holder].on_roster(making.roster)[0])
    with pytest.raises(TooFewSurvivors, match="3 holders left"):
        making.collect.close()


def test_a_missing_commitment_ends_the_session() -> None:
    collect = CollectCommitments(AGREEMENT, HOLDERS)
    for holder in HOLDERS[:-1]:
        collect.receive(generate(AGREEMENT, holder, insecure_entropy(holder))[0])
    with pytest.raises(TooFewSurvivors, match="3 holders left"):
        collect.close()


@pytest.mark.parametrize("part", ["share", "blind"])
def test_a_wrong_opening_is_refused_by_the_server_by_holders_and_by_clients(
    engine: Engine, part: str
) -> None:
    making = Making(engine)
    agreement, params = making.agreement, making.params
    message, boxes, _ = making.open()
    zeros = Secret(bytes(32))
    other = bytes(32)
    if part == "share":
        other = arithmetic(agreement).public_share(3, zeros, zeros)
    honest = Openings.from_bytes(message, expect=making.header, params=params)
    wrong = dict(honest.entries) | {3: replace(honest.entries[3], **{part: other})}
    shown = replace(honest, entries=wrong).to_bytes()
    with pytest.raises(RemoteProtocolError, match="holder 3 opens another key"):
        CollectiveKey.from_bytes(agreement, shown)
    with pytest.raises(RemoteProtocolError, match="holder 3 opens another key"):
        making.states[2].on_openings(shown, boxes[2], burn=BurnInMemory())
    opening = Opening.from_bytes(making.opened[3], expect=making.header, params=params)
    roster = Roster.from_bytes(making.roster, expect=making.header)
    again = CollectOpenings(agreement, roster)
    with pytest.raises(RemoteProtocolError, match="holder 3 opens another key"):
        again.receive(replace(opening, **{part: other}).to_bytes())
    again.receive(making.opened[3])  # it is as it was


def test_an_opening_whose_residues_are_too_large_is_refused_though_it_was_committed_to() -> None:
    making = Making(Engine.SEAL)
    message, _, _ = making.open()
    honest = Openings.from_bytes(message, expect=making.header, params=making.params)
    huge = b"\xff" * len(honest.entries[3].share)
    entry = replace(
        honest.entries[3],
        share=huge,
        commitment=commit(making.agreement, 3, huge, honest.entries[3].blind),
    )
    shown = replace(honest, entries=dict(honest.entries) | {3: entry}).to_bytes()
    with pytest.raises(DecodeError, match="not below its prime"):
        CollectiveKey.from_bytes(making.agreement, shown)


def test_openings_of_other_commitments_than_those_of_the_roster_are_refused() -> None:
    one, other = Making(), Making(entropy=lambda _: system)
    _, boxes, _ = one.open()
    shown, _, key = other.open()
    assert CollectiveKey.from_bytes(AGREEMENT, shown).digest == key.digest  # a good key, elsewhere
    with pytest.raises(RemoteProtocolError, match="not of the commitments in the roster"):
        one.states[2].on_openings(shown, boxes[2], burn=BurnInMemory())


def test_a_key_of_fewer_holders_than_agreed_is_refused_by_clients() -> None:
    making = Making()
    message, _, _ = making.open()
    honest = Openings.from_bytes(message, expect=making.header, params=PARAMS)
    fewer = {holder: honest.entries[holder] for holder in HOLDERS[:3]}
    with pytest.raises(RemoteProtocolError, match="3 holders have opened, 4 were agreed"):
        CollectiveKey.from_bytes(AGREEMENT, replace(honest, entries=fewer).to_bytes())


def boxes_of(message: bytes) -> ShareBoxes:
    return ShareBoxes.from_bytes(message, expect=AGREEMENT.key_header)


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        (
            lambda boxes: replace(boxes[2], boxes={**boxes[2].boxes, 5: boxes[3].boxes[5]}),
            "does not open",
        ),
        (lambda boxes: boxes[3], "boxes for holder 3"),
        (
            lambda boxes: replace(boxes[2], boxes={5: boxes[2].boxes[5]}),
            "not one box of each other holder",
        ),
        (
            lambda boxes: replace(
                boxes[2], boxes=dict(boxes[2].boxes) | {3: boxes[2].boxes[5], 5: boxes[2].boxes[3]}
            ),
            "does not open",
        ),
    ],
)
def test_boxes_that_are_not_ours_are_refused(
    change: Callable[[dict[int, ShareBoxes]], ShareBoxes], refusal: str
) -> None:
    making = Making()
    message, boxes, _ = making.open()
    found = {holder: boxes_of(boxes[holder]) for holder in HOLDERS}
    with pytest.raises(RemoteProtocolError, match=refusal):
        making.states[2].on_openings(message, change(found).to_bytes(), burn=BurnInMemory())


def test_strangers_and_doubles_are_refused_by_the_server() -> None:
    collect = CollectCommitments(AGREEMENT, HOLDERS)
    message, state = generate(AGREEMENT, 2, insecure_entropy(2))
    collect.receive(message)
    with pytest.raises(RemoteProtocolError, match="already answered"):
        collect.receive(message)
    with pytest.raises(RemoteProtocolError, match="party 4 is not expected"):
        collect.receive(generate(AGREEMENT, 4, insecure_entropy(4))[0])
    copied = Advertise(header=AGREEMENT.key_header, sender=3, entry=state.entry)
    with pytest.raises(RemoteProtocolError, match="the key of another"):
        collect.receive(copied.to_bytes())
    low = Advertise(
        header=AGREEMENT.key_header, sender=3, entry=replace(state.entry, seal_key=bytes(32))
    )
    with pytest.raises(RemoteProtocolError, match="low order"):
        collect.receive(low.to_bytes())
    making = Making()
    making.open()
    with pytest.raises(LocalProtocolError, match="closed"):
        making.collect.receive(making.opened[2])


def test_a_box_for_each_other_holder_is_needed() -> None:
    making = Making()
    answer, _ = making.states[2].on_roster(making.roster)
    opening = Opening.from_bytes(answer, expect=making.header, params=PARAMS)
    fewer = replace(opening, boxes={3: opening.boxes[3]}).to_bytes()
    with pytest.raises(RemoteProtocolError, match="sealed 1 boxes"):
        making.collect.receive(fewer)


def test_a_seed_is_known_by_the_share_that_was_published_for_it(engine: Engine) -> None:
    making = Making(engine)
    _, _, key = making.open()
    assert key.is_of(2, Secret(insecure_entropy(2)(32)))
    assert not key.is_of(3, Secret(insecure_entropy(2)(32)))
    assert not key.is_of(2, Secret(bytes(32)))


def test_the_wrong_model_is_refused() -> None:
    with pytest.raises(InputError, match="no holders"):
        generate(SHARED, 1)
    with pytest.raises(InputError, match="must be THRESHOLD for CollectCommitments"):
        CollectCommitments(SHARED, HOLDERS)
    with pytest.raises(InputError, match="must be SHARED_KEY"):
        SharedKey(AGREEMENT, Secret(bytes(32)))
    with pytest.raises(InputError, match="3 holders are named, 4 were agreed"):
        CollectCommitments(AGREEMENT, HOLDERS[:3])


def test_contexts_and_labels_are_those_that_the_page_names() -> None:
    start = AGREEMENT.session + PARAMS.to_bytes()
    key_context = hashlib.sha256(b"secagg/1 ckks key " + start).digest()
    assert AGREEMENT.key_context() == key_context
    assert AGREEMENT.label(b"seal", b"about") == b"secagg/1 ckks seal " + key_context + b"about"
    body = AGREEMENT.session + bytes(4) + PARAMS.to_bytes() + bytes(32) + b"name"
    assert AGREEMENT.context(b"name") == hashlib.sha256(b"secagg/1 ckks round " + body).digest()


# --- shared keys ---


def test_a_shared_key_is_another_in_every_session_and_under_other_parameters() -> None:
    names = {
        SharedKey(agreement, SECRET).digest
        for agreement in (
            SHARED,
            replace(SHARED, session=bytes(16)),
            replace(SHARED, params=replace(SHARED.params, clip=2.0)),
        )
    }
    assert len(names | {SharedKey(SHARED, Secret(bytes(32))).digest}) == 4
    key = SharedKey(replace(SHARED, session=bytes(16)), SECRET)
    with pytest.raises(LocalProtocolError, match="another session"):
        encrypt(SHARED, 1, key, np.zeros(100))


def test_a_shared_key_has_32_bytes() -> None:
    with pytest.raises(InputError, match="secret has 16 bytes"):
        SharedKey(SHARED, Secret(bytes(16)))


# --- secrets ---


def test_keys_are_neither_printed_nor_pickled_nor_copied(engine: Engine) -> None:
    agreement, secret = shared(engine), SECRET.expose()
    key = SharedKey(agreement, SECRET)
    found = SharedSum(
        header=agreement.header, context=bytes(32), summands={1: bytes(32)}, ciphertexts=b""
    )
    entropy = insecure_entropy("upload")
    works = key.opening(agreement, found), key.encrypting(agreement, 1, entropy)
    again = insecure_entropy("upload")
    _, errors = again(32), again(32)
    for text in (repr(key), *map(repr, works)):
        for each in (secret, errors):
            assert repr(each)[2:-1] not in text
            assert each.hex() not in text
    for step in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="neither pickled nor copied"):
            step(key)


def test_work_travels_to_a_worker_also_after_it_was_used_here(engine: Engine) -> None:
    agreement = shared(engine)
    work = SharedKey(agreement, SECRET).encrypting(agreement, 1, insecure_entropy("upload"))
    work((0, np.zeros(100)))
    again = pickle.loads(pickle.dumps(work))  # noqa: S301  # our own
    assert len(again((0, np.zeros(100)))) == agreement.params.chunk_size()


def holder(engine: Engine = Engine.COEFFICIENTS) -> Holder:
    making = Making(engine)
    message, boxes, _ = making.open()
    waiting: AwaitOpenings = making.states[2]
    return waiting.on_openings(message, boxes[2], burn=BurnInMemory())[0]


def test_a_holder_comes_out_of_its_record_as_it_went_in(engine: Engine) -> None:
    made = holder(engine)
    record = made.into_record()
    again = restore(record, burn=made.burn)
    assert again == made
    assert again.into_record() == record
    for secret in (made.seed, made.own, made.shares[3]):
        assert secret.expose().hex() not in repr(made) + repr(record)
        assert repr(secret.expose())[2:-1] not in repr(made) + repr(record)


def test_a_record_that_was_changed_is_refused() -> None:
    record = holder().into_record().expose()
    body = bytes(without_checksum(record))
    for bad in (record[:-1], b"\1" + record[1:], b"", with_checksum(body + b"\0")):
        with pytest.raises(DecodeError):
            restore(Secret(bad), burn=BurnInMemory())
    with pytest.raises(DecodeError, match="not a holder's state"):
        restore(Secret(with_checksum(b"x" * len(body))), burn=BurnInMemory())
