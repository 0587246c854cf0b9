"""What a server refuses, each refusal by name, and that it leaves no trace in the sum."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import overload

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols.bonawitz import (
    Agreement,
    AwaitSurvivors,
    CollectKeys,
    CollectReveals,
    CollectShares,
    CollectVectors,
    Dispute,
    Params,
    join,
)
from protocols.bonawitz.messages import (
    FRAME_WORDS,
    Advertise,
    MaskedFrame,
    PublicKeys,
    Reveal,
    Roster,
    SealedShares,
)
from protocols.errors import (
    DecodeError,
    LocalProtocolError,
    RemoteProtocolError,
    TooFewSurvivors,
    WrongShares,
)
from protocols.primitives.agree import PrivateKey
from protocols.primitives.prg import Mask, Masks, Suite
from protocols.primitives.shamir import combine
from protocols.secrets import Secret
from protocols.testing import BurnInMemory, agreement_of, insecure_entropy, played
from protocols.wire import Header, with_checksum, without_checksum

WORDS = FRAME_WORDS + 5  # two frames, the second of 6 words
PARAMS = Params(clients=5, threshold=3, words=WORDS)
AGREEMENT = Agreement(params=PARAMS, session=bytes(range(16)), round=2, public_digest=bytes(32))
HEADER = AGREEMENT.header
CLIENTS = range(5)
LOW_ORDER = bytes(32)


def words_of(client: int) -> NDArray[np.uint64]:
    return np.arange(WORDS, dtype=np.uint64) * np.uint64(client + 1)


INPUTS = {client: words_of(client) for client in CLIENTS}


def sum_of(*clients: int) -> NDArray[np.uint64]:
    total = np.zeros(WORDS, np.uint64)
    for client in clients:
        total += words_of(client)
    return total


def advertise(client: int, **changed: bytes) -> bytes:
    message = Advertise.from_bytes(
        join(AGREEMENT, client, insecure_entropy(client))[0], expect=HEADER
    )
    return replace(message, keys=replace(message.keys, **changed)).to_bytes()


def keys_of(client: int) -> PublicKeys:
    return Advertise.from_bytes(advertise(client), expect=HEADER).keys


class Round:
    """An honest round of five clients, led up to the stage that a test is about."""

    def at_shares(self) -> tuple[CollectShares, dict[int, bytes]]:
        made = played(AGREEMENT, INPUTS, "roster")
        return made.server, made.answers()[0]

    def at_vectors(self) -> tuple[CollectVectors, dict[int, list[bytes]]]:
        made = played(AGREEMENT, INPUTS, "boxes")
        self.waiting: dict[int, AwaitSurvivors]
        frames, self.waiting = made.answers()
        return made.server, frames

    def at_reveals(self, *alive: int) -> tuple[CollectReveals, dict[int, bytes]]:
        made = played(AGREEMENT, INPUTS, "survivors", alive=alive)
        return made.server, made.answers()[0]

    def finish(self, vectors: CollectVectors) -> NDArray[np.uint64]:
        """The sum of what ``vectors`` holds."""
        named, reveals = vectors.close()
        for client, message in named.items():
            reveals.receive(self.waiting[client].on_survivors(message))
        return reveals.close().words


# AdvertiseKeys


def test_a_client_advertises_once() -> None:
    stage = CollectKeys(AGREEMENT)
    stage.receive(advertise(1))
    with pytest.raises(RemoteProtocolError, match="client 1 has already advertised"):
        stage.receive(join(AGREEMENT, 1)[0])
    for client in (2, 3):
        stage.receive(advertise(client))
    rosters, _ = stage.close()
    assert Roster.from_bytes(rosters[1], expect=HEADER).entries[1] == keys_of(1)


@pytest.mark.parametrize("mine", ["mask", "seal"])
@pytest.mark.parametrize("theirs", ["mask", "seal"])
def test_a_key_of_another_client_is_refused(mine: str, theirs: str) -> None:
    stage = CollectKeys(AGREEMENT)
    stage.receive(advertise(1))
    with pytest.raises(RemoteProtocolError, match="advertises a key twice"):
        stage.receive(advertise(2, **{mine: getattr(keys_of(1), theirs)}))
    stage.receive(advertise(2))


def test_one_key_for_both_uses_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="advertises a key twice"):
        CollectKeys(AGREEMENT).receive(advertise(2, seal=keys_of(2).mask))


@pytest.mark.parametrize("which", ["mask", "seal"])
def test_a_key_of_low_order_is_refused(which: str) -> None:
    stage = CollectKeys(AGREEMENT)
    with pytest.raises(RemoteProtocolError, match="low order"):
        stage.receive(advertise(1, **{which: LOW_ORDER}))
    stage.receive(advertise(1))


def test_one_client_more_than_the_lanes_hold_is_refused() -> None:
    stage = CollectKeys(AGREEMENT)
    for client in CLIENTS:
        stage.receive(advertise(client))
    with pytest.raises(RemoteProtocolError, match="the round is full"):
        stage.receive(advertise(5))


# ShareKeys


def test_shares_of_a_stranger_and_second_shares_are_refused() -> None:
    stage, messages = Round().at_shares()
    shares = SealedShares.from_bytes(messages[1], expect=HEADER)
    with pytest.raises(RemoteProtocolError, match="client 7 is not expected"):
        stage.receive(replace(shares, sender=7).to_bytes())
    stage.receive(messages[1])
    with pytest.raises(RemoteProtocolError, match="client 1 has already answered"):
        stage.receive(messages[1])


def test_a_client_that_agrees_to_something_else_is_named_so() -> None:
    stage, messages = Round().at_shares()
    shares = SealedShares.from_bytes(messages[1], expect=HEADER)
    with pytest.raises(RemoteProtocolError, match="client 1 agrees to something else"):
        stage.receive(replace(shares, agreement=bytes(8)).to_bytes())
    assert stage.receive(messages[1]) == 1


@pytest.mark.parametrize("change", ["one-less", "a-stranger", "oneself", "none"])
def test_shares_that_are_not_one_box_for_each_peer_are_refused(change: str) -> None:
    stage, messages = Round().at_shares()
    shares = SealedShares.from_bytes(messages[1], expect=HEADER)
    boxes = dict(shares.boxes)
    match change:
        case "one-less":
            del boxes[0]
        case "a-stranger":
            boxes[7] = boxes[0]
        case "oneself":
            boxes[1] = boxes.pop(0)
        case _:
            boxes = {}
    with pytest.raises(RemoteProtocolError, match="not one for each of its 4 peers"):
        stage.receive(replace(shares, boxes=boxes).to_bytes())
    assert stage.receive(messages[1]) == 1


# MaskedInput


def changed_frame(frame: bytes, **changed: int) -> bytes:
    body = without_checksum(frame)
    count = (len(body) - 30) // 8
    index = int.from_bytes(body[26:30], "big")
    message = MaskedFrame.from_bytes(frame, expect=HEADER, index=index, count=count)
    return replace(message, **changed).to_bytes()  # type: ignore[arg-type]  # integers only


def lengthened(frame: bytes, words: int) -> bytes:
    body = bytes(without_checksum(frame))
    return with_checksum(body + bytes(8 * words) if words > 0 else body[: 8 * words])


def test_a_vector_that_is_not_all_frames_of_one_client_leaves_no_trace() -> None:
    session = Round()
    vectors, frames = session.at_vectors()
    for client in (0, 1, 2):
        vectors.receive(frames[client])
    first, second = frames[3]
    bad = {
        "no frames": [],
        "a frame missing": [first],
        "the first missing": [second],
        "a frame twice": [first, first],
        "a frame too many": [first, second, second],
        "reordered": [second, first],
        "too long": [first, lengthened(second, 1)],
        "too short": [first, lengthened(second, -1)],
        "half a word": [first, with_checksum(bytes(without_checksum(second)) + b"1234")],
        "of two clients": [first, frames[4][1]],
        "the first of another": [frames[4][0], second],
        "of a client that has answered": frames[2],
        "of a stranger": [changed_frame(frame, sender=9) for frame in frames[3]],
        "another index": [first, changed_frame(second, index=2)],
        "a bit flipped": [first, bytes([*second[:-20], second[-20] ^ 1, *second[-19:]])],
        "cut short": [first, second[:-1]],
        "another message": [first, advertise(3)],
    }
    for name, sent in bad.items():
        with pytest.raises(RemoteProtocolError):
            pytest.fail(f"{name} was taken for client {vectors.receive(sent)}")
    vectors.receive(frames[3])
    assert np.array_equal(session.finish(vectors), sum_of(0, 1, 2, 3))


def test_frames_of_another_round_are_refused() -> None:
    vectors, frames = Round().at_vectors()
    header = replace(AGREEMENT, round=3).header
    body = bytes(without_checksum(frames[0][1]))
    other = with_checksum(body[:2] + header.to_bytes() + body[22:])
    with pytest.raises(DecodeError, match="another session or round"):
        vectors.receive([frames[0][0], other])


class Torn(Sequence[bytes]):
    """Frames in a file of which the reads of these numbers, from 1, fail."""

    def __init__(self, frames: list[bytes], error: Exception, *fail: int) -> None:
        self._frames = frames
        self._error = error
        self._fail = fail
        self._reads = 0

    def __len__(self) -> int:
        return len(self._frames)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | Sequence[bytes]:
        self._reads += 1
        if self._reads in self._fail:
            raise self._error
        return self._frames[index]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._frames)


def test_a_vector_added_in_part_never_comes_out() -> None:
    session = Round()
    vectors, frames = session.at_vectors()
    for client in (0, 1, 2):
        vectors.receive(frames[client])
    with pytest.raises(OSError, match="the disk is gone"):
        # The second frame fails, and so does taking back the first.
        vectors.receive(Torn(frames[3], OSError("the disk is gone"), 2, 3))
    # The check word alone would not tell: it stands in the frame that was not added.
    with pytest.raises(LocalProtocolError):
        session.finish(vectors)


def test_a_vector_whose_reading_fails_is_taken_back_whole() -> None:
    session = Round()
    vectors, frames = session.at_vectors()
    for client in (0, 1, 2):
        vectors.receive(frames[client])
    with pytest.raises(OSError, match="the disk is slow"):
        vectors.receive(Torn(frames[3], OSError("the disk is slow"), 2))
    vectors.receive(frames[3])
    assert np.array_equal(session.finish(vectors), sum_of(0, 1, 2, 3))


def test_a_vector_that_arrives_after_the_close_is_not_read() -> None:
    session = Round()
    vectors, frames = session.at_vectors()
    for client in (0, 1, 2):
        vectors.receive(frames[client])
    message, reveals = vectors.close()
    with pytest.raises(LocalProtocolError, match="late messages are dropped"):
        vectors.receive(frames[3])
    for client in (0, 1, 2):
        reveals.receive(session.waiting[client].on_survivors(message[client]))
    assert np.array_equal(reveals.close().words, sum_of(0, 1, 2))


def test_a_server_that_was_restarted_names_the_same_survivors_or_none() -> None:
    burn = BurnInMemory()
    named = []
    for alive in ((0, 1, 2), (0, 1, 2)):
        vectors, frames = Round().at_vectors()
        for client in alive:
            vectors.receive(frames[client])
        named.append(vectors.close(burn)[0])
    assert named[0] == named[1]
    vectors, frames = Round().at_vectors()
    for client in (0, 1, 3):
        vectors.receive(frames[client])
    with pytest.raises(LocalProtocolError, match="another set of survivors"):
        vectors.close(burn)
    assert list(burn.taken) == [(HEADER.to_bytes(), 0)]


def test_nothing_is_written_down_below_the_threshold() -> None:
    vectors, frames = Round().at_vectors()
    vectors.receive(frames[0])

    def burn(session: bytes, stage: int, request: bytes) -> bool:
        pytest.fail("a set that is not sent was written down")

    with pytest.raises(TooFewSurvivors):
        vectors.close(burn)


# Unmask


def test_reveals_of_the_gone_of_strangers_and_second_ones_are_refused() -> None:
    stage, messages = Round().at_reveals(0, 1, 2)
    reveal = Reveal.from_bytes(messages[0], expect=HEADER)
    for stranger in (3, 9):
        with pytest.raises(RemoteProtocolError, match=f"client {stranger} is not expected"):
            stage.receive(replace(reveal, sender=stranger).to_bytes())
    stage.receive(messages[0])
    with pytest.raises(RemoteProtocolError, match="client 0 has already answered"):
        stage.receive(messages[0])
    for client in (1, 2):
        stage.receive(messages[client])
    assert np.array_equal(stage.close().words, sum_of(0, 1, 2))


def test_a_reveal_of_a_stranger_is_refused_and_one_share_less_is_not() -> None:
    """Whose box does not open has no share there; the others' shares are enough."""
    stage, messages = Round().at_reveals(0, 1, 2)
    reveal = Reveal.from_bytes(messages[0], expect=HEADER)
    shares = dict(reveal.shares)
    with pytest.raises(RemoteProtocolError, match=r"reveals shares of \[9\], has none"):
        stage.receive(replace(reveal, shares={**shares, 9: shares[4]}).to_bytes())
    del shares[4]
    assert stage.receive(replace(reveal, shares=shares).to_bytes()) == 0


def with_wrong_share(message: bytes, peer: int) -> bytes:
    reveal = Reveal.from_bytes(message, expect=HEADER)
    share = bytearray(reveal.shares[peer].expose())
    share[5] ^= 1
    return replace(reveal, shares={**reveal.shares, peer: Secret(bytes(share))}).to_bytes()


@pytest.mark.parametrize(
    ("peer", "why"),
    [
        (1, "the check word does not count the 3 survivors"),
        (4, "the shares of client 4 rebuild another key than it advertised"),
    ],
    ids=["of-the-alive", "of-the-gone"],
)
def test_one_wrong_share_is_noticed_and_nothing_is_released(peer: int, why: str) -> None:
    stage, messages = Round().at_reveals(0, 1, 2)
    stage.receive(with_wrong_share(messages[0], peer))
    stage.receive(messages[1])
    stage.receive(messages[2])
    with pytest.raises(RemoteProtocolError, match=why):
        stage.close()
    with pytest.raises(LocalProtocolError, match="closed"):
        stage.close()


def test_a_client_that_counts_itself_twice_is_noticed() -> None:
    session = Round()
    vectors, frames = session.at_vectors()
    for client in (0, 1):
        vectors.receive(frames[client])
    last = MaskedFrame.from_bytes(frames[2][1], expect=HEADER, index=1, count=6)
    words = last.words.copy()
    words[-1] += np.uint64(1)
    vectors.receive([frames[2][0], replace(last, words=words).to_bytes()])
    with pytest.raises(RemoteProtocolError, match="the check word does not count"):
        session.finish(vectors)


def test_masks_may_be_taken_off_elsewhere() -> None:
    stage, messages = Round().at_reveals(0, 1, 2)
    for message in messages.values():
        stage.receive(message)
    cut = 8 * 1000

    class InTwoParts:
        def __init__(self, masks: Sequence[Mask], suite: Suite) -> None:
            self.front, self.back = Masks(masks, suite), Masks(masks, suite, start=cut)

        def apply_to(self, words: NDArray[np.uint64]) -> None:
            self.back.apply_to(words[cut:])
            self.front.apply_to(words[:cut])

    assert np.array_equal(stage.close(InTwoParts).words, sum_of(0, 1, 2))


def test_masks_left_on_are_noticed() -> None:
    stage, messages = Round().at_reveals(0, 1, 2)
    for message in messages.values():
        stage.receive(message)
    with pytest.raises(RemoteProtocolError, match="the check word does not count"):
        stage.close(lambda masks, suite: Masks((), suite))


def test_a_server_unmasks_with_one_mask_an_alive_and_one_a_pair_of_alive_and_gone() -> None:
    stage, messages = Round().at_reveals(0, 1, 2)
    for message in messages.values():
        stage.receive(message)
    seen: list[Mask] = []

    def look(masks: Sequence[Mask], suite: Suite) -> Masks:
        seen.extend(masks)
        return Masks(masks, suite)

    stage.close(look)
    assert len(seen) == 3 + 2 * 3
    assert len({mask.label for mask in seen}) == len(seen)


def test_a_rebuilt_key_is_compared_with_the_one_advertised() -> None:
    _, messages = Round().at_reveals(0, 1, 2)
    gone = [Reveal.from_bytes(messages[n], expect=HEADER).shares[4] for n in (0, 1, 2)]
    (secret,) = combine([1, 2, 3], [[share.expose() for share in gone]])
    assert PrivateKey(secret).public == keys_of(4).mask


@pytest.mark.parametrize("gone", [(), (4,)], ids=["of-seeds", "of-a-mask-key-too"])
def test_wrong_shares_are_corrected_and_who_revealed_them_is_named(gone: tuple[int, ...]) -> None:
    params = Params(clients=9, threshold=5, words=3)
    inputs = {n: np.full(3, 10**n, np.uint64) for n in range(9)}
    alive = [n for n in inputs if n not in gone]
    made = played(agreement_of(params), inputs, "survivors", alive=alive)
    answers, _ = made.answers()
    for client, answer in answers.items():
        if client == 1:
            for peer in (0, 4, 8):
                answer = with_wrong_share_of(made.header, answer, peer)
        made.server.receive(answer)
    released = made.server.close()
    assert released.disputes == (Dispute(1, 0), Dispute(1, 4), Dispute(1, 8))
    assert released.words.tolist() == [sum(10**n for n in alive)] * 3


@pytest.mark.parametrize("gone", [False, True], ids=["alive", "gone"])
def test_who_seals_more_wrong_shares_than_can_be_corrected_is_named(gone: bool) -> None:
    """Three of nine holders have a wrong share of client 4, two can be told; one lies of 6."""
    params = Params(clients=9, threshold=5, words=3)
    inputs = {n: np.full(3, n, np.uint64) for n in range(9)}
    alive = [n for n in inputs if not (gone and n == 4)]
    made = played(agreement_of(params), inputs, "survivors", alive=alive)
    answers, _ = made.answers()
    for client in alive:
        answer = answers[client]
        if client in (0, 1, 2):
            answer = with_wrong_share_of(made.header, answer, 4)
        if client == 3:
            answer = with_wrong_share_of(made.header, answer, 6)
        made.server.receive(answer)
    with pytest.raises(WrongShares, match="client 4 first: it sealed wrong ones") as error:
        made.server.close()
    assert error.value.dealers == (4,)


def with_wrong_share_of(header: Header, message: bytes, peer: int) -> bytes:
    reveal = Reveal.from_bytes(message, expect=header)
    share = Secret(bytes(reversed(reveal.shares[peer].expose())))
    return replace(reveal, shares={**reveal.shares, peer: share}).to_bytes()
