"""Changed messages: through the classes of the messages where those can say it, bytewise otherwise.

Nothing here knows at which place a field stands. An entry of a list is found by its own bytes, and
what stands before a list of n entries is taken from a message that has n.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from inspect import signature
from itertools import pairwise
from typing import Any, Final, TypeAlias, TypeVar

import numpy as np

from protocols.bonawitz.messages import (
    Advertise,
    Mark,
    MaskedFrame,
    PublicKeys,
    Reveal,
    Roster,
    SealedShares,
    ShareBoxes,
    Signatures,
    SignedSurvivors,
    Survivors,
    frame_sizes,
)
from protocols.bonawitz.params import Agreement
from protocols.errors import InputError
from protocols.primitives.agree import KEY_SIZE
from protocols.secrets import Secret
from protocols.wire import Header, Message, with_checksum, without_checksum
from secagg.interop.play import Dice
from secagg.stage import Stage

M = TypeVar("M", bound=Message)
Mutant: TypeAlias = tuple[str, bytes]  # what was done, and the message

_P: Final = 2**255 - 19
LOW_ORDER: Final = tuple(
    value.to_bytes(KEY_SIZE, "little")
    for value in (
        *(0, 1, _P - 1, _P, _P + 1, 2**255),
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
    )
)
"""Keys whose shared secrets are all zero (https://cr.yp.to/ecdh.html), one with its top bit set."""

SIZES: Final = (0, 1, 2**16, 2**32 - 1)  # that a roster may claim, beside those around its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """A round, as far as the readers of its messages need to know it.

    Attributes:
      come: how many clients advertised.
      numbers: of clients of the round, and one that is none.
    """

    agreement: Agreement
    come: int
    numbers: Sequence[int]

    def handed(self, stage: Stage, message: bytes, roster: bytes) -> Message:
        """What a client reads at ``stage``, decoded.

        Args:
          roster: as it was shown to that client.
        """
        if stage is Stage.SHARE:
            return self._read(Roster, message)
        if stage is Stage.MASK:
            return self.boxes(message)
        if stage is Stage.REVEAL and self.agreement.params.active:
            return self._read(Signatures, message)
        shown = self._read(Roster, roster)
        return self._read(Survivors, message, members=sorted(shown.entries))

    def boxes(self, message: bytes) -> ShareBoxes:
        """What a client reads at the mask stage, decoded."""
        return self._read(ShareBoxes, message)

    def answer(self, stage: Stage, place: int, message: bytes) -> Message:
        """What a client sends at ``stage``, decoded; ``place`` in the frames of its vector."""
        if stage is not Stage.MASK:
            return self._read(_ANSWERS[stage], message)
        sizes = frame_sizes(self.agreement.params.words + 1)
        if place == len(sizes):
            return self._read(Mark, message)
        return self._read(MaskedFrame, message, index=place, count=sizes[place])

    def _read(self, kind: type[M], message: bytes, **known: Any) -> M:
        """Decode ``message``: of all that is known its class is told what its fields depend on."""
        plan = self.agreement.params.plan(self.come)
        picks = plan.picks is not None
        known |= {
            "signed": self.agreement.params.active,
            "size": self.come if picks else 0,
            "part": plan.degree is not None and not picks,
            "marked": picks,
        }
        asked = signature(kind.read).parameters
        agreed = {name: value for name, value in known.items() if name in asked}
        return kind.from_bytes(message, expect=self.agreement.header, **agreed)


_ANSWERS: Final[Mapping[Stage, type[Message]]] = {
    Stage.ADVERTISE: Advertise,
    Stage.SHARE: SealedShares,
    Stage.SIGN: SignedSurvivors,
    Stage.REVEAL: Reveal,
}


def mutants(
    message: Message, others: Sequence[bytes], numbers: Sequence[int], dice: Dice
) -> Iterator[Mutant]:
    """Changed copies of ``message``; a reader may well accept some of them.

    Args:
      others: messages to take parts from, and to send in its place.
      numbers: to put in the place of clients' numbers.
    """
    for name, changed in _changed(message, numbers, dice):
        with suppress(InputError):  # what a class cannot write no message says
            yield name, changed.to_bytes()
    for part in fields(message):
        if isinstance(table := getattr(message, part.name), Mapping):
            yield from _relisted(message, part.name, table, numbers, dice)
    yield from _bytewise(message, others, dice)
    for other in others:
        yield "another message", other


def _changed(message: Message, numbers: Sequence[int], dice: Dice) -> Iterator[tuple[str, Message]]:
    """What the class of the message can say: each field on its own replaced."""
    for part in fields(message):
        if not part.init or part.name == "members":  # what does not travel
            continue
        value = getattr(message, part.name)
        for name, other in _variants(value, numbers, dice):
            yield f"{part.name}: {name}", replace(message, **{part.name: other})
    if isinstance(message, Advertise):
        for number in dice.some(numbers, 2):
            fresh = _fresh(message.keys, dice)
            yield f"keys: fresh, of {number}", replace(message, sender=number, keys=fresh)
    if isinstance(message, Roster):
        listed = len(message.entries)
        sizes = {*SIZES, *(message.size + by for by in (-1, 1)), listed - 1, listed}
        for size in sizes - {message.size, -1}:
            part_of = (size, message.digest())
            yield f"size: {size}", replace(message, part_of=part_of)
        for name, entries in _tables(message.entries, numbers, dice):
            part_of = (message.size, message.digest())
            changed = replace(message, entries=entries, part_of=part_of)
            yield f"entries, size and digest kept: {name}", changed


def _variants(value: object, numbers: Sequence[int], dice: Dice) -> Iterator[tuple[str, Any]]:
    """Other values of the same type."""
    match value:
        case bool() | None:
            return
        case int():
            for number in {*dice.some(numbers, 3), (value + 1) % 2**32, 0} - {value}:
                yield str(number), number
        case bytes():
            yield from _octets(value, dice)
        case Secret():
            for name, other in _octets(value.expose(), dice):
                yield name, Secret(other)
        case Header():
            (_, session), *_ = _octets(value.session, dice)
            yield "another session", replace(value, session=session)
            yield "another round", replace(value, round=(value.round + 1) % 2**32)
        case PublicKeys():
            yield from _keys(value, (), dice)
        case frozenset():
            yield from _sets(value, numbers, dice)
        case dict():
            yield from _tables(value, numbers, dice)
        case np.ndarray():  # of words
            yield "a word less", value[:-1]
            yield "a word more", np.append(value, value[:1])
            flipped = value.copy()
            flipped[dice.below(len(value))] ^= np.uint64(1 << dice.below(64))
            yield "a bit flipped", flipped
        case object() if is_dataclass(value) and not isinstance(value, type):
            for part in fields(value):
                for name, other in _variants(getattr(value, part.name), numbers, dice):
                    yield f"{part.name} {name}", replace(value, **{part.name: other})


def _octets(value: bytes, dice: Dice) -> Iterator[tuple[str, bytes]]:
    if value:
        place = dice.below(len(value))
        flipped = bytes([value[place] ^ 1 << dice.below(8)])
        yield "a bit flipped", value[:place] + flipped + value[place + 1 :]
        yield "zeros", bytes(len(value))
        yield "a byte less", value[:-1]
        yield "a byte more", value + value[-1:]


def _keys(
    value: PublicKeys, others: Sequence[PublicKeys], dice: Dice
) -> Iterator[tuple[str, PublicKeys]]:
    """Other keys: weak ones, each other's, somebody else's, and the same in another encoding."""
    for part, twin in (("mask", "seal"), ("seal", "mask")):
        key = getattr(value, part)
        yield f"{part} of low order", replace(value, **{part: dice.one(LOW_ORDER)})
        yield f"{part} is {twin}", replace(value, **{part: getattr(value, twin)})
        top = bytes([key[-1] ^ 0x80])  # the same point: X25519 does not read this bit
        yield f"{part} with its top bit", replace(value, **{part: key[:-1] + top})
        if others:
            theirs = getattr(dice.one(others), dice.one((part, twin)))
            yield f"{part} of another", replace(value, **{part: theirs})
    yield "exchanged", replace(value, mask=value.seal, seal=value.mask)
    for name, signed in _octets(value.signature, dice):
        yield f"signature {name}", replace(value, signature=signed)


def _fresh(value: PublicKeys, dice: Dice) -> PublicKeys:
    """Keys that nobody else has, under the old signature."""
    return replace(value, mask=dice.octets(KEY_SIZE), seal=dice.octets(KEY_SIZE))


def _sets(
    value: frozenset[int], numbers: Sequence[int], dice: Dice
) -> Iterator[tuple[str, frozenset[int]]]:
    yield "nobody", frozenset()
    yield "everybody", frozenset(numbers)
    for number in dice.some(sorted(value), 3):
        yield f"without {number}", value - {number}
    for number in dice.some(sorted({*numbers} - value), 3):
        yield f"with {number}", value | {number}
    for _ in range(12):
        yield "some", frozenset(dice.some(sorted(value), 1 + dice.below(len(value) or 1)))


def _tables(
    value: Mapping[int, Any], numbers: Sequence[int], dice: Dice
) -> Iterator[tuple[str, dict[int, Any]]]:
    """Other entries. Doubled and disordered ones, which no mapping has, are in ``_relisted``."""
    listed, table = sorted(value), dict(value)
    yield "none", {}
    if not listed:
        return
    for number in dice.some(listed, 4):
        yield f"without {number}", {key: table[key] for key in listed if key != number}
    for _ in range(3):
        kept = dice.some(listed, dice.below(len(listed)))
        yield f"{len(kept)} of {len(listed)}", {number: table[number] for number in kept}
    for number in dice.some(sorted({*numbers} - {*listed}), 3):
        entry = table[dice.one(listed)]
        yield f"with {number}", table | {number: entry}
        if isinstance(entry, PublicKeys):
            yield f"with {number}, fresh", table | {number: _fresh(entry, dice)}
        moved = {key: table[key] for key in listed[:-1]} | {number: table[listed[-1]]}
        yield f"{listed[-1]} is now {number}", moved
    if len(listed) > 1:
        one, other = dice.some(listed, 2)
        swapped = {one: table[other], other: table[one]}
        yield f"{one} and {other} exchanged", table | swapped
        yield f"{one} as {other}", table | {one: table[other]}
    for number in dice.some(listed, 3):
        entry = table[number]
        rest = [table[key] for key in listed if key != number]
        keyed = isinstance(entry, PublicKeys)
        variants = _keys(entry, rest, dice) if keyed else _variants(entry, numbers, dice)
        for name, changed in variants:
            yield f"{number} {name}", table | {number: changed}


def _relisted(
    message: Message, name: str, table: Mapping[int, Any], numbers: Sequence[int], dice: Dice
) -> Iterator[Mutant]:
    """The entries of ``name`` doubled, out of order, or of another number than is said."""
    listed = sorted(table)
    strangers = {*numbers} - {*listed}
    if len(listed) < 3 or not strangers:  # two of them are measured, to know where one begins
        return
    more: Any = {name: {**table, max(strangers): table[listed[0]]}}
    less: Any = {name: {number: table[number] for number in listed[:-1]}}
    head, rows, tail = _parted(message, table)
    one_more, one_less = (
        _parted(replace(message, **other), other[name])[0] for other in (more, less)
    )
    at = dice.below(len(rows) - 1)
    doubled = [*rows[: at + 1], *rows[at:]]
    swapped = [*rows[:at], rows[at + 1], rows[at], *rows[at + 2 :]]
    for said, before, entries in (
        ("one twice", one_more, doubled),
        ("two in the wrong order", head, swapped),
        ("one more is said", one_more, rows),
        ("one less is said", one_less, rows),
    ):
        made = b"".join((before, *entries, tail))
        yield f"{name}: {said}", with_checksum(made) if message.CHECKSUM else made


def _body(message: Message) -> bytes:
    data = message.to_bytes()
    return bytes(without_checksum(data)) if message.CHECKSUM else data


def _parted(message: Message, table: Mapping[int, Any]) -> tuple[bytes, list[bytes], bytes]:
    """What stands before the entries of ``table``, each of them whole, and what stands behind."""
    body, places, place = _body(message), list[int](), 0
    values = [_encoded(table[number]) for number in sorted(table)]
    for value in values:
        place = body.index(value, place)
        places.append(place)
        place += len(value)
    number = places[1] - places[0] - len(values[0])  # bytes before a value: whose it is
    edges = [*(at - number for at in places), place]
    return body[: edges[0]], [body[a:b] for a, b in pairwise(edges)], body[place:]


def _encoded(value: Any) -> bytes:
    if isinstance(value, Secret):
        return value.expose()
    return value if isinstance(value, bytes) else bytes(value.to_bytes())


def _bytewise(message: Message, others: Collection[bytes], dice: Dice) -> Iterator[Mutant]:
    """The bytes changed, under the old checksum or under one of their own."""
    data, body, checksum = message.to_bytes(), _body(message), message.CHECKSUM
    front = min(len(body), 64)

    def flip(limit: int) -> bytes:
        place = dice.below(limit)
        return body[:place] + bytes([body[place] ^ 1 << dice.below(8)]) + body[place + 1 :]

    def overwrite(width: int) -> bytes:
        place = dice.below(len(body))
        value = dice.one((bytes(width), b"\xff" * width, dice.octets(width)))
        return body[:place] + value + body[place + width :]

    def move(width: int) -> bytes:
        place = dice.below(len(body))
        a, b = body[place : place + width], body[place + width : place + 2 * width]
        return body[:place] + b + a + body[place + 2 * width :]

    def splice() -> bytes:
        other, place = dice.one([*others, data]), dice.below(len(body))
        return body[:place] + other[place : place + 1 + dice.below(64)] + body[place + 64 :]

    ways: dict[str, Callable[[], bytes]] = {
        "a bit flipped": lambda: flip(len(body)),
        "a bit flipped in front": lambda: flip(front),
        "cut": lambda: body[: dice.below(len(body))],
        "bytes behind": lambda: body + dice.octets(1 + dice.below(20)),
        "four bytes overwritten": lambda: overwrite(4),
        "four bytes exchanged": lambda: move(4),
        "spliced": splice,
    }
    for name, way in ways.items():
        for _ in range(2):
            changed = way()
            if checksum and dice.below(8):
                yield f"{name}, new checksum", with_checksum(changed)
            else:
                yield name, changed + data[len(body) :]
