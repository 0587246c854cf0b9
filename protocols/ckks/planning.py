"""The parameters that send the least, of those that keep a promise about the error."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from protocols.checks import check_integer
from protocols.ckks import residues
from protocols.ckks.coefficients import CHECKED, MAX_MESSAGES, ROW_ENTRIES, Coefficients
from protocols.ckks.params import DIGEST_SIZE, MAX_BITS, Engine, Model, Params, least_scale
from protocols.ckks.residues import DEGREES, MAX_PRIME_BITS, Ring
from protocols.errors import InputError
from protocols.primitives.shamir import majority

SPECIAL_BITS: Final = 40  # the errors of a public-key encryption are divided by 2**40
_MOST_TRIES: Final = 8  # at the number of words that integers need


def _rings(model: Model, entries: int) -> Iterator[Ring]:
    """SEAL's within the table, the shortest upload first, then the least work."""
    found: list[tuple[int, int, int, tuple[int, ...], int]] = []
    for degree in DEGREES:
        low = degree.bit_length() + 6  # smaller primes are few

        def upload(bits: int, degree: int = degree) -> int:
            polynomial = degree * bits // 8
            chunk = residues.SEED_SIZE + polynomial if model is Model.SHARED_KEY else 2 * polynomial
            return -(-entries // degree) * chunk

        for bits in range(low, MAX_BITS[degree] + 1):
            if bits <= MAX_PRIME_BITS:
                found.append((upload(bits), degree, 1, (bits,), 0))
            halves = (bits - bits // 2, bits // 2)
            if low <= halves[1] <= halves[0] <= MAX_PRIME_BITS and (
                bits + SPECIAL_BITS <= MAX_BITS[degree]
            ):
                found.append((upload(bits), degree, 2, halves, SPECIAL_BITS))
    for _, degree, _, sizes, special in sorted(found):
        yield Ring(degree=degree, prime_bits=sizes, special_bits=special)


def _lattices(rows: int) -> Iterator[Coefficients]:
    for limbs in (2, 3):
        for kept in range(2, 9):
            for messages in range(1, min(MAX_MESSAGES, rows) + 1):
                yield Coefficients(limbs=limbs, messages=messages, kept=kept)


# The arguments are the fields of ``Params`` that a caller may wish for, and the precision.
def plan_parameters(
    *,
    model: Model,
    clients: int,
    entries: int,
    clip: float,
    precision: float,
    integers: Sequence[tuple[int, int]] = (),
    engine: Engine = Engine.COEFFICIENTS,
    flooding: int | None = 40,
    decryptions: int = 1,
    holders: int = 0,
    threshold: int | None = None,
    max_corrupt: int | None = None,
    minimum_survivors: int = 2,
) -> Params:
    """The parameters that send the least, of those whose ``mean_error()`` is at most ``precision``.

    What a client sends and is sent in a session counts; under SEAL its upload alone.

    Args:
      entries: reals of a vector.
      precision: in the unit of ``clip``, for the mean of all ``clients``.
      integers: of a vector too, as (how many, modulo how many bits); ``Params.entries`` then
        counts the words of all. Not under SEAL, where integers travel as reals.
      threshold: by default the smallest majority.
      max_corrupt: by default a third of ``holders``.
      others: as in :class:`Params`.

    Raises:
      InputError: none reach it; the message holds the best that can be had.
    """
    bad = holders // 3 if max_corrupt is None else max_corrupt
    majority_of = majority(holders, bad) if model is Model.THRESHOLD else 0
    if engine is Engine.SEAL and integers:
        raise InputError("integers are exact on coefficients alone; SEAL sums reals")
    count = entries + sum(each for each, _ in integers)
    check_integer("entries", count, 1)

    def build(ring: Ring | Coefficients, words: int) -> Params:
        draft = Params(
            model=model,
            clients=clients,
            minimum_survivors=minimum_survivors,
            entries=words,
            clip=clip,
            ring=ring,
            scale_sixteenths=least_scale(ring),
            flooding=flooding,
            decryptions=decryptions,
            holders=holders,
            threshold=majority_of if threshold is None else threshold,
            max_corrupt=bad,
        )
        return replace(draft, scale_sixteenths=draft.largest_scale_sixteenths)

    def fitted(ring: Ring | Coefficients) -> Params:
        params = build(ring, count)
        for _ in range(_MOST_TRIES):  # more words, more noise, perhaps more digits
            words = entries + sum(n * params.encoding.digits(bits) for n, bits in integers)
            if words == params.entries:
                return params
            params = build(ring, words)
        raise InputError("integers have no number of digits that their own noise allows")

    def sent(ring: Ring | Coefficients, words: int) -> int:
        if isinstance(ring, Ring):
            return 0  # they come in order
        rows = -(-words // ROW_ENTRIES)
        second = DIGEST_SIZE if model is Model.SHARED_KEY else ring.whole
        upload = ring.kept * (words + CHECKED * rows) + -(-rows // ring.messages) * second
        return decryptions * upload + holders * ring.messages * ring.whole

    rings: Iterable[Ring | Coefficients] = _rings(model, count)
    if engine is Engine.COEFFICIENTS:
        rings = sorted(_lattices(-(-count // ROW_ENTRIES)), key=lambda ring: sent(ring, count))
    wanted = precision if entries else math.inf
    found: Params | None = None
    nearest: Params | None = None
    refusal = InputError("no ring")
    for ring in rings:
        if found and sent(ring, count) >= sent(found.ring, found.entries):
            break
        try:
            params = fitted(ring)
        except InputError as error:
            refusal = error
            continue
        if nearest is None or params.mean_error() < nearest.mean_error():
            nearest = params
        if params.mean_error() <= wanted and (
            found is None or sent(ring, params.entries) < sent(found.ring, found.entries)
        ):
            found = params
    if found:
        return found
    if nearest is None:
        raise refusal
    raise InputError(
        f"no parameters reach a largest error of {precision:.3g}: the best reach "
        f"{nearest.mean_error():.3g}"
    )
