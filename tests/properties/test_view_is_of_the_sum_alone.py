"""What the server sees of two sets of inputs with one sum has one distribution.

Exactly: with masks in a group of four elements every choice of masks can be
tried, and the views counted. Statistically: with real masks, on low bits. The
server has taken off what the round gives it, the self-masks of the alive and the
pairwise masks of the gone.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols.bonawitz import Params, Rates
from protocols.bonawitz.params import Context
from protocols.primitives.prg import Mask, Masks, Suite
from protocols.testing import agreement_of, masked_words, played

ORDER = 4
COMPLETE = Params(clients=4, threshold=3, words=1)
RING = Params(clients=5, rates=Rates(corrupt_fraction=0, dropout=0), words=1)  # two neighbours each
Client = int
Signed = list[tuple[bytes, bool]]  # labels of a client's masks, and whether it subtracts them


def masked(
    params: Params, inputs: Sequence[NDArray[np.uint64]]
) -> tuple[dict[Client, list[Mask]], dict[Client, NDArray[np.uint64]], Context]:
    """Each client's masks, as it applies them, and its masked vector."""
    agreement = agreement_of(params)
    made = played(agreement, dict(enumerate(inputs)), "boxes")
    seen: dict[Client, list[Mask]] = {}
    vectors = {}
    for client in range(params.clients):

        def look(masks: Sequence[Mask], suite: Suite, me: int = client) -> Masks:
            seen[me] = list(masks)
            return Masks(masks, suite)

        frames, _ = made.states[client].on_boxes(made.boxes[client], inputs[client], expand=look)
        vectors[client] = masked_words(agreement, list(frames))
    return seen, vectors, made.context


def between(params: Params, alive: Iterable[Client]) -> dict[Client, Signed]:
    """The masks that stay on the vectors of the alive: each of a pair of them."""
    zero = np.zeros(params.words, np.uint64)
    seen, _, context = masked(params, [zero] * params.clients)
    kept = {context.pair(a, b) for a, b in itertools.combinations(alive, 2)}
    return {
        client: [(mask.label, mask.subtract) for mask in seen[client] if mask.label in kept]
        for client in alive
    }


def views(masks: dict[Client, Signed], inputs: Sequence[int]) -> Counter[tuple[int, ...]]:
    """How often each view is seen, over all masks in a group of four elements."""
    labels = sorted({label for signed in masks.values() for label, _ in signed})
    counted: Counter[tuple[int, ...]] = Counter()
    for values in itertools.product(range(ORDER), repeat=len(labels)):
        value = dict(zip(labels, values, strict=True))
        counted[
            tuple(
                (word + sum(-value[label] if minus else value[label] for label, minus in signed))
                % ORDER
                for word, signed in zip(inputs, masks.values(), strict=True)
            )
        ] += 1
    return counted


CASES = pytest.mark.parametrize(
    ("params", "alive"),
    [
        (COMPLETE, (0, 1, 2, 3)),
        (COMPLETE, (0, 2, 3)),
        (RING, (0, 1, 2, 3, 4)),
    ],
    ids=["complete", "complete-one-gone", "ring"],
)


@CASES
def test_every_set_of_inputs_with_one_sum_gives_the_same_views(
    params: Params, alive: tuple[int, ...]
) -> None:
    masks = between(params, alive)
    by_sum: dict[int, Counter[tuple[int, ...]]] = {}
    for inputs in itertools.islice(itertools.product(range(ORDER), repeat=len(alive)), 0, None, 7):
        counted = views(masks, inputs)
        assert counted == by_sum.setdefault(sum(inputs) % ORDER, counted)
    assert by_sum.keys() == set(range(ORDER))
    for one, other in itertools.combinations(by_sum.values(), 2):
        assert one.keys().isdisjoint(other)


@CASES
def test_a_view_is_uniform_among_those_with_its_sum(params: Params, alive: tuple[int, ...]) -> None:
    counted = views(between(params, alive), [1] * len(alive))
    assert len(counted) == ORDER ** (len(alive) - 1)
    assert len(set(counted.values())) == 1


def test_it_would_be_noticed_if_the_survivors_were_not_connected() -> None:
    masks = between(RING, range(5))
    circle = {label: client for client, signed in masks.items() for label, _ in signed}
    # Without two of its edges a ring falls apart, and each part shows its own sum.
    cut = [masks[0][0][0], next(label for label in sorted(circle) if label not in dict(masks[0]))]
    apart = {
        client: [(label, minus) for label, minus in signed if label not in cut]
        for client, signed in masks.items()
    }
    found = {
        frozenset(views(apart, inputs).items())
        for inputs in itertools.product((0, 1), repeat=5)
        if sum(inputs) == 2
    }
    assert len(found) > 1


@pytest.mark.parametrize(
    "params", [Params(clients=3, threshold=2, words=2**15), RING], ids=["complete", "ring"]
)
def test_with_real_masks_low_bits_show_the_sum_and_nothing_else(params: Params) -> None:
    words = 2**15
    wide = Params(
        clients=params.clients, threshold=params.threshold, rates=params.rates, words=words
    )
    count = params.clients
    ramp = np.arange(words, dtype=np.uint64)
    one = [ramp * np.uint64(client) for client in range(count)]
    other = [ramp * np.uint64(count * (count - 1) // 2)] + [np.zeros(words, np.uint64)] * (
        count - 1
    )
    total = np.sum(one, axis=0, dtype=np.uint64)
    assert np.array_equal(total, np.sum(other, axis=0, dtype=np.uint64))
    shares = []
    for inputs in (one, other):
        seen, vectors, context = masked(wide, inputs)
        for client, vector in vectors.items():
            own = [mask for mask in seen[client] if mask.label == context.self_mask(client)]
            Masks([Mask(seed=m.seed, label=m.label, subtract=True) for m in own]).apply_to(vector)
        plain = [vector[:-1] for vector in vectors.values()]
        assert np.array_equal(np.sum(plain, axis=0, dtype=np.uint64), total)
        place = np.zeros(words, np.int64)
        for vector in plain[:-1]:  # the last follows from the sum
            place = 2 * place + (vector & np.uint64(1)).astype(np.int64)
        shares.append(np.bincount(place, minlength=2 ** (count - 1)))
    expected = words / 2 ** (count - 1)
    for counts in shares:
        assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)
