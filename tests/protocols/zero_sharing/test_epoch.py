"""Ranks of one epoch: masks cancel in any sum of all, and in no other; keys once, or nothing."""

import copy
import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols import wire
from protocols.errors import (
    DecodeError,
    InputError,
    LocalProtocolError,
    RankFailed,
    RemoteProtocolError,
)
from protocols.primitives.prg import Suite
from protocols.testing import insecure_entropy, insecure_identities, publics_of
from protocols.zero_sharing import Agreement, AwaitKeys, Epoch, Flag, Params, join
from protocols.zero_sharing.messages import Advertise
from protocols.zero_sharing.params import MAX_RANKS

Words = NDArray[np.uint64]
PLAIN = Agreement(params=Params(ranks=4), session=bytes(16), round=1, public_digest=bytes(32))
SIGNED = replace(PLAIN, params=Params(ranks=4, signed=True))
IDENTITIES = insecure_identities(range(4))


def joined(agreement: Agreement, **agreed: Agreement) -> tuple[list[bytes], list[AwaitKeys]]:
    """What every rank advertises, and who waits; ``agreed``: to something else, as ``rank2``."""
    sent, states = [], []
    for rank in range(agreement.params.ranks):
        mine = agreed.get(f"rank{rank}", agreement)
        keys: dict[str, Any] = (
            {"identity": IDENTITIES[rank], "identities": publics_of(IDENTITIES)}
            if mine.params.signed
            else {}
        )
        message, state = join(mine, rank, insecure_entropy(f"rank {rank}"), **keys)
        sent.append(message)
        states.append(state)
    return sent, states


def epochs(agreement: Agreement = PLAIN) -> list[Epoch]:
    sent, states = joined(agreement)
    return [state.on_keys(sent) for state in states]


def vectors(words: int = 5, *, ranks: int = 4, shards: int = 1) -> list[Words]:
    made = [np.zeros((shards, words + 2), np.uint64) for _ in range(ranks)]
    for rank, vector in enumerate(made):
        vector[:, :words] = np.arange(words) * 10**rank + 2**60 * rank
    return [vector.reshape(-1) for vector in made]


def added(masked: list[Words]) -> Words:
    return np.sum(masked, axis=0, dtype=np.uint64)


def inputs(made: list[Words]) -> Words:
    return added(made)[:-2]


def masked(group: list[Epoch], made: list[Words], **how: Any) -> tuple[Words, list[Any]]:
    """The total of what all ranks send, and who waits for it."""
    waits = [epoch.begin(vector, **how) for epoch, vector in zip(group, made, strict=True)]
    return added(made), waits


@pytest.mark.parametrize("suite", Suite)
@pytest.mark.parametrize("ranks", [2, 3, 7])
@pytest.mark.parametrize("agreement", [PLAIN, SIGNED], ids=["unsigned", "signed"])
def test_masks_cancel_in_the_sum_of_all_ranks(
    ranks: int, suite: Suite, agreement: Agreement, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "IDENTITIES", insecure_identities(range(ranks)))
    params = replace(agreement.params, ranks=ranks, suite=suite)
    group = epochs(replace(agreement, params=params))
    made = vectors(ranks=ranks)
    expected = inputs(made)
    total, waits = masked(group, made, counter=0)
    for wait in waits:
        assert wait.open(total).tolist() == expected.tolist()


def test_each_rank_of_a_reduce_scatter_opens_its_own_shard() -> None:
    made = vectors(shards=4)
    expected = added(made).reshape(4, 7)[:, :5]
    total, waits = masked(epochs(), made, counter=0, shards=4)
    for shard, wait, want in zip(total.reshape(4, 7), waits, expected, strict=True):
        assert wait.open(shard).tolist() == want.tolist()


def test_a_masked_vector_shows_neither_its_input_nor_its_check_word() -> None:
    made = vectors()
    before = [vector.copy() for vector in made]
    masked(epochs(), made, counter=0)
    for vector, old in zip(made, before, strict=True):
        assert not (vector == old).any()
        assert vector[-1] != 1


@pytest.mark.parametrize("left_out", range(4))
def test_the_sum_of_all_but_one_does_not_open(left_out: int) -> None:
    group, made = epochs(), vectors()
    _, waits = masked(group, made, counter=0)
    with pytest.raises(RemoteProtocolError, match="one is missing"):
        waits[0].open(added([each for rank, each in enumerate(made) if rank != left_out]))
    assert group[0].ended


def test_a_rank_that_was_added_twice_is_found() -> None:
    made = vectors()
    total, waits = masked(epochs(), made, counter=0)
    with pytest.raises(RemoteProtocolError, match="added twice"):
        waits[0].open(total + made[2])


@pytest.mark.parametrize(
    "other",
    [{"counter": 1}, {"bucket": 1}, {"shards": 7, "words": 5}, {"after": 0, "counter": 5}],
    ids=str,
)
def test_ranks_that_count_differently_do_not_cancel(other: dict[str, int]) -> None:
    group, made = epochs(), vectors()
    words = other.pop("words", 0)
    if words:  # the same length in another number of shards
        made = [np.zeros(7 * 7, np.uint64) for _ in range(4)]
    waits = [epoch.begin(vector, counter=0) for epoch, vector in zip(group, made, strict=True)][:3]
    group[3] = epochs()[3]
    if words:
        made[3][:] = 0
    else:
        made[3] = vectors()[3]
    group[3].begin(made[3], **({"counter": 0} | other))
    with pytest.raises(RemoteProtocolError, match="check word"):
        waits[0].open(added(made))


def test_ranks_of_another_public_input_do_not_cancel() -> None:
    """Whoever makes all ranks believe that they agree gets nothing for it."""
    other = replace(PLAIN, public_digest=hashlib.sha256(b"another model").digest())
    sent, states = joined(PLAIN, rank2=other)
    lies = [replace(read(data), agreement=other.tag).to_bytes() for data in sent]
    lies[2] = sent[2]
    truth = replace(read(sent[2]), agreement=PLAIN.tag).to_bytes()
    told = [*sent[:2], truth, sent[3]]
    group = [state.on_keys(lies if rank == 2 else told) for rank, state in enumerate(states)]
    total, waits = masked(group, vectors(), counter=0)
    with pytest.raises(RemoteProtocolError, match="check word"):
        waits[0].open(total)


def read(data: bytes, *, signed: bool = False) -> Advertise:
    return Advertise.from_bytes(data, expect=PLAIN.header, signed=signed)


@pytest.mark.parametrize("flag", Flag)
def test_a_rank_that_cannot_take_part_ends_the_sum_on_all_ranks_alike(flag: Flag) -> None:
    group, made = epochs(), vectors()
    made[1][:] = 77  # must not reach the sum
    waits = [
        epoch.begin(vector, counter=0, flag=flag if rank == 1 else None)
        for rank, (epoch, vector) in enumerate(zip(group, made, strict=True))
    ]
    total = added(made)
    assert total[:-2].tolist() == inputs([*vectors()[:1], *vectors()[2:]]).tolist()
    for epoch, wait in zip(group, waits, strict=True):
        with pytest.raises(RankFailed) as caught:
            wait.open(total)
        assert caught.value.reasons == {flag.name: 1}
        assert epoch.ended


def test_flags_of_all_ranks_are_counted_by_reason() -> None:
    group, made = epochs(), vectors()
    flags = [Flag.NOT_FINITE, Flag.NOT_FINITE, Flag.OUT_OF_RANGE, Flag.FAILED]
    waits = [
        epoch.begin(vector, counter=0, flag=flag)
        for epoch, vector, flag in zip(group, made, flags, strict=True)
    ]
    with pytest.raises(RankFailed, match="2 with an entry that is NaN") as caught:
        waits[0].open(added(made))
    assert caught.value.reasons == {"NOT_FINITE": 2, "OUT_OF_RANGE": 1, "FAILED": 1}


def test_a_flag_stands_in_every_shard() -> None:
    group, made = epochs(), vectors(shards=4)
    waits = [
        epoch.begin(vector, counter=0, shards=4, flag=Flag.FAILED if rank == 3 else None)
        for rank, (epoch, vector) in enumerate(zip(group, made, strict=True))
    ]
    for wait, shard in zip(waits, added(made).reshape(4, -1), strict=True):
        with pytest.raises(RankFailed):
            wait.open(shard)


def test_a_flag_that_no_rank_sets_is_refused() -> None:
    made = vectors()
    total, waits = masked(epochs(), made, counter=0)
    total[-2] += np.uint64(1 << 48)
    with pytest.raises(RemoteProtocolError, match="check word"):
        waits[0].open(total)


def test_a_counter_is_used_once_and_never_falls() -> None:
    (epoch, *_), vector = epochs(), vectors()[0]
    epoch.begin(vector, counter=3)
    before = vector.copy()
    for used in (0, 2, 3):
        with pytest.raises(LocalProtocolError, match=f"counter {used} was used"):
            epoch.begin(vector, counter=used)
    assert (vector == before).all()
    epoch.begin(vector, counter=4)


def test_an_epoch_that_ended_masks_and_opens_nothing() -> None:
    group, made = epochs(), vectors()
    total, waits = masked(group, made, counter=0)
    group[0].end()
    with pytest.raises(LocalProtocolError, match="this epoch is over"):
        group[0].begin(made[0], counter=1)
    with pytest.raises(LocalProtocolError, match="this epoch is over"):
        waits[0].open(total)


def test_a_total_opens_once() -> None:
    total, waits = masked(epochs(), vectors(), counter=0)
    waits[0].open(total)
    with pytest.raises(LocalProtocolError, match="was opened"):
        waits[0].open(total)


def test_several_collectives_are_on_their_way_at_once() -> None:
    group = epochs()
    first, second = vectors(), vectors(words=9)
    expected = inputs(first), inputs(second)
    one, wait_one = masked(group, first, counter=0, bucket=0)
    two, wait_two = masked(group, second, counter=1, bucket=1)
    assert wait_two[0].open(two).tolist() == expected[1].tolist()
    assert wait_one[0].open(one).tolist() == expected[0].tolist()


def test_totals_that_were_seen_alike_cancel_in_whatever_order_they_came() -> None:
    group = epochs()
    totals = [masked(group, vectors(), counter=counter) for counter in (0, 1)]
    for rank in range(4):
        for total, waits in totals if rank % 2 else reversed(totals):
            waits[rank].open(total)
    made = vectors()
    expected = inputs(made)
    total, waits = masked(group, made, counter=2, after=2)
    assert waits[0].open(total).tolist() == expected.tolist()


def test_a_total_that_is_not_open_cannot_be_in_a_mask() -> None:
    group = epochs()
    masked(group, vectors(), counter=0)
    with pytest.raises(LocalProtocolError, match="a total below 1 was not opened"):
        group[0].begin(vectors()[0], counter=1, after=1)


def test_totals_that_are_in_the_masks_stay_there() -> None:
    group = epochs()
    total, waits = masked(group, vectors(), counter=0)
    for wait in waits:
        wait.open(total)
    masked(group, vectors(), counter=1, after=1)
    with pytest.raises(InputError, match="after 0 is no integer in"):
        group[0].begin(vectors()[0], counter=2)


def test_two_ranks_of_one_view_still_do_not_open_without_the_third() -> None:
    """The check word counts all: whoever saw another total stops the others too."""
    group = epochs()
    total, waits = masked(group, vectors(), counter=0)
    for rank, wait in enumerate(waits):
        seen = total.copy()
        seen[0] += np.uint64(rank == 3)
        wait.open(seen)
    total, waits = masked(group, vectors(), counter=1, after=1)
    with pytest.raises(RemoteProtocolError, match="other totals"):
        waits[0].open(total)


@pytest.mark.parametrize(
    ("vector", "shards"),
    [
        (np.zeros(2, np.uint64), 1),
        (np.zeros(10, np.uint64), 3),
        (np.zeros(8, np.uint64), 4),
        (np.zeros(7, np.int64), 1),
        (np.zeros((1, 7), np.uint64), 1),
        (np.zeros(14, np.uint64)[::2], 1),
    ],
    ids=["no word", "no whole shards", "shards without a word", "int64", "2-D", "strided"],
)
def test_a_vector_of_another_shape_is_refused(vector: Any, shards: int) -> None:
    with pytest.raises(InputError, match="is no vector of"):
        epochs()[0].begin(vector, counter=0, shards=shards)


@pytest.mark.parametrize("total", [np.zeros(6, np.uint64), np.zeros(7, np.int64)])
def test_a_total_of_another_shape_is_refused(total: Any) -> None:
    _, waits = masked(epochs(), vectors(), counter=0)
    with pytest.raises(InputError, match="is no total of 5 words"):
        waits[0].open(total)


@pytest.mark.parametrize(
    "how",
    [
        {"counter": -1},
        {"counter": 2**64},
        {"counter": True},
        {"bucket": 2**32},
        {"shards": 0},
        {"after": 1},
    ],
    ids=str,
)
def test_a_number_out_of_range_is_refused(how: dict[str, int]) -> None:
    with pytest.raises(InputError, match="is no integer in"):
        epochs()[0].begin(vectors()[0], **({"counter": 0} | how))


def test_an_epoch_is_neither_copied_nor_pickled() -> None:
    epoch = epochs()[0]
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="two copies would mask alike"):
            attempt(epoch)


# Keys


def test_a_key_answers_once() -> None:
    sent, states = joined(PLAIN)
    states[0].on_keys(sent)
    with pytest.raises(LocalProtocolError, match="already answered"):
        states[0].on_keys(sent)


def test_two_epochs_have_nothing_in_common() -> None:
    one, other = (Agreement(**vars_of(PLAIN) | {"round": number}) for number in (1, 2))
    first, second = vectors(), vectors()
    masked(epochs(one), first, counter=0)
    masked(epochs(other), second, counter=0)
    assert not (first[0] == second[0]).any()


def vars_of(agreement: Agreement) -> Mapping[str, Any]:
    return {name: getattr(agreement, name) for name in agreement.__dataclass_fields__}


def another_version(data: bytes) -> bytes:
    body = bytes([wire.VERSION + 1]) + bytes(wire.without_checksum(data))[1:]
    return wire.with_checksum(body)


def with_key(data: bytes, key: bytes) -> bytes:
    return replace(read(data), key=key).to_bytes()


BAD = {
    "speaks version 2": lambda sent: [*sent[:2], another_version(sent[2]), sent[3]],
    "3 keys, one of each of 4": lambda sent: sent[:3],
    "the key of rank 3 in place of rank 2": lambda sent: [*sent[:2], sent[3], sent[2]],
    "the key of rank 1 in place of rank 2": lambda sent: [*sent[:2], sent[1], sent[3]],
    "our own key was changed": lambda sent: [with_key(sent[0], b"\7" * 32), *sent[1:]],
    "two ranks have one key": lambda sent: [*sent[:3], with_key(sent[3], read(sent[2]).key)],
    "is a point of low order": lambda sent: [*sent[:3], with_key(sent[3], bytes(32))],
    "checksum": lambda sent: [*sent[:3], sent[3][:-1] + b"\0"],
    "checksum does not match": lambda sent: [*sent[:3], sent[3] + b"\0"],
    "another session or round": lambda sent: [
        *sent[:3],
        replace(read(sent[3]), header=replace(PLAIN.header, round=9)).to_bytes(),
    ],
    "rank 3 agrees to something else": lambda sent: [
        *sent[:3],
        replace(read(sent[3]), agreement=bytes(8)).to_bytes(),
    ],
}


@pytest.mark.parametrize("says", BAD)
def test_keys_that_break_a_rule_make_no_epoch(says: str) -> None:
    sent, states = joined(PLAIN)
    with pytest.raises(RemoteProtocolError, match=says):
        states[0].on_keys(BAD[says](sent))
    states[0].on_keys(sent)  # it had not answered


def test_a_key_that_its_identity_did_not_sign_is_refused() -> None:
    sent, states = joined(SIGNED)
    forged = replace(read(sent[2], signed=True), key=b"\7" * 32)
    with pytest.raises(RemoteProtocolError, match="the key of rank 2 is not signed"):
        states[0].on_keys([*sent[:2], forged.to_bytes(), sent[3]])


def test_a_signature_of_another_agreement_or_rank_does_not_serve() -> None:
    sent, states = joined(SIGNED)
    earlier, _ = joined(replace(SIGNED, public_digest=b"\1" * 32))
    replayed = replace(read(earlier[2], signed=True), agreement=SIGNED.tag)
    moved = replace(read(sent[3], signed=True), sender=2)
    for lie in (replayed, moved):
        with pytest.raises(RemoteProtocolError, match="is not signed by its identity"):
            states[0].on_keys([*sent[:2], lie.to_bytes(), sent[3]])


def test_a_signed_message_is_not_taken_for_an_unsigned_one() -> None:
    sent, _ = joined(SIGNED)
    _, states = joined(PLAIN)
    with pytest.raises(DecodeError):
        states[0].on_keys(sent)


@pytest.mark.parametrize(
    ("agreement", "me", "keys", "says"),
    [
        (PLAIN, 4, {}, "rank 4 is no integer"),
        (PLAIN, 0, {"identity": IDENTITIES[0]}, "if keys are signed"),
        (SIGNED, 0, {}, "if keys are signed"),
        (SIGNED, 0, {"identity": IDENTITIES[0]}, "if keys are signed"),
        (
            SIGNED,
            0,
            {"identity": IDENTITIES[1], "identities": publics_of(IDENTITIES)},
            "that of rank 0",
        ),
        (
            SIGNED,
            0,
            {"identity": IDENTITIES[0], "identities": {0: IDENTITIES[0].public}},
            "those of all ranks",
        ),
        (
            SIGNED,
            0,
            {
                "identity": IDENTITIES[0],
                "identities": publics_of(IDENTITIES) | {3: IDENTITIES[2].public},
            },
            "two clients have one identity",
        ),
        (
            SIGNED,
            0,
            {
                "identity": IDENTITIES[0],
                "identities": publics_of(IDENTITIES) | {3: b"\1" + bytes(31)},
            },
            "of small order",
        ),
    ],
)
def test_a_rank_without_its_keys_does_not_join(
    agreement: Agreement, me: int, keys: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        join(agreement, me, **keys)


@pytest.mark.parametrize("ranks", [0, 1, MAX_RANKS + 1, True])
def test_a_number_of_ranks_that_cannot_hide_one_is_refused(ranks: int) -> None:
    with pytest.raises(InputError, match="ranks"):
        Params(ranks=ranks)


def test_an_agreement_of_another_form_is_refused() -> None:
    for change in ({"session": bytes(15)}, {"public_digest": bytes(31)}, {"round": -1}):
        with pytest.raises(InputError):
            replace(PLAIN, **change)


def test_sizes_on_the_wire() -> None:
    assert len(joined(PLAIN)[0][0]) == 82
    assert len(joined(SIGNED)[0][0]) == 146


def test_an_advertisement_has_one_encoding() -> None:
    for agreement, signed in ((PLAIN, False), (SIGNED, True)):
        (data, *_), _ = joined(agreement)
        assert read(data, signed=signed).to_bytes() == data


def test_nothing_that_waits_prints_a_secret() -> None:
    sent, states = joined(SIGNED)
    epoch = states[0].on_keys(sent)
    wait = epoch.begin(vectors()[0], counter=0)
    secrets = [seed.expose() for seed in epoch._seeds.values()]
    for thing in (states[1], epoch, wait):
        text = f"{thing!r} {thing}"
        assert not any(secret.hex() in text or repr(secret) in text for secret in secrets)
