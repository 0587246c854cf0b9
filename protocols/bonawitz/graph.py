"""The graph of clients that share masks and secrets: complete, neighbours [BBG+20], or picks.

Where the server follows the protocol it draws a random Harary graph: the clients stand in a
circle in random order, and each has the k/2 on either side of it for neighbours.
``plan_graph`` chooses k and the threshold t among the k, so that among n clients, of which a
fraction g is corrupt and a fraction d drops out after the keys are in,

    with probability at least 1 - 2**-40 the honest survivors stay connected and
    no client has t corrupt neighbours (an honest client's masks stay on), and
    with probability at least 1 - 2**-20 every client keeps t neighbours (the
    round succeeds).

Against a server that may lie each client picks its own holders instead: see
``protocols.bonawitz.picks``.

[BBG+20]: https://eprint.iacr.org/2020/704, section 3.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import exp, lgamma, log
from typing import TypeAlias

from protocols.bonawitz.picks import MAX_CLIENTS, Picks, plan_picks
from protocols.entropy import Entropy
from protocols.errors import InputError
from protocols.primitives.shamir import majority
from protocols.wire import ClientId

SECURITY_BITS = 40
FAILURE_BITS = 20
MOST_LOST = Fraction(9, 10)  # g + d, or g + 2 d: beyond it no graph is planned


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphPlan:
    """How to share among n clients.

    Attributes:
      degree: k, neighbours of each client, or holders that each one picks; None for the
        complete graph, where all are, and each holds a share of its own secrets too.
      threshold: t, shares that rebuild a secret.
      picks: where clients pick their own holders: what follows from the numbers.
      quorum: clients without whom nothing opens: complete graph, the threshold; picks, more
        than (n + C) / 2, who sign the one set of survivors; circle, 0.
    """

    degree: int | None
    threshold: int
    picks: Picks | None = None
    quorum: int = 0


def complete(threshold: int) -> GraphPlan:
    """The complete graph."""
    return GraphPlan(degree=None, threshold=threshold, quorum=threshold)


class Complete:
    """Everybody is everybody's neighbour, and holds a share of its own secrets too."""

    def __init__(self, clients: Iterable[ClientId]) -> None:
        self._clients = tuple(sorted(clients))

    def neighbours(self, client: ClientId) -> frozenset[ClientId]:
        return frozenset(self._clients) - {client}

    def holders(self, _: ClientId) -> tuple[ClientId, ...]:
        """The clients that hold shares of a client's secrets; holder i has share number i + 1."""
        return self._clients


class Harary:
    """The clients in a circle, each with the ``degree / 2`` on either side.

    Args:
      circle: the clients in random order, drawn after all keys are in.
      degree: even, below the number of clients less one.
    """

    def __init__(self, circle: Sequence[ClientId], degree: int) -> None:
        if degree % 2 or not 2 <= degree < len(circle) - 1 or len(set(circle)) != len(circle):
            raise InputError(f"no circle of degree {degree} among {len(circle)} clients")
        self._circle = tuple(circle)
        self._place = {client: place for place, client in enumerate(circle)}
        self._half = degree // 2

    def neighbours(self, client: ClientId) -> frozenset[ClientId]:
        place, size = self._place[client], len(self._circle)
        steps = range(1, self._half + 1)
        return frozenset(
            self._circle[(place + side * step) % size] for step in steps for side in (-1, 1)
        )

    def holders(self, client: ClientId) -> tuple[ClientId, ...]:
        """The clients that hold shares of a client's secrets; holder i has share number i + 1."""
        return tuple(sorted(self.neighbours(client)))


class Picked:
    """Each client's own picks hold its secrets; it masks with them and with who picked it.

    Args:
      picks: of each client that shared.
    """

    def __init__(self, picks: Mapping[ClientId, Iterable[ClientId]]) -> None:
        self._holders = {client: tuple(sorted(chosen)) for client, chosen in picks.items()}
        near: dict[ClientId, set[ClientId]] = {client: set() for client in picks}
        for client, chosen in self._holders.items():
            for holder in chosen:
                if holder in near:
                    near[client].add(holder)
                    near[holder].add(client)
        self._near = {client: frozenset(peers) for client, peers in near.items()}

    def neighbours(self, client: ClientId) -> frozenset[ClientId]:
        """Those who shared, and picked it or were picked by it."""
        return self._near[client]

    def holders(self, client: ClientId) -> tuple[ClientId, ...]:
        """The holders of shares of a client's secrets; holder i has share number i + 1."""
        return self._holders[client]


Graph: TypeAlias = Complete | Harary | Picked


def pick(others: Iterable[ClientId], count: int, entropy: Entropy) -> list[ClientId]:
    """``count`` of ``others``, every such set alike, in order; ``entropy`` gives 16 bytes each."""
    listed = sorted(others)
    keys = entropy(16 * len(listed))
    chosen = sorted(range(len(listed)), key=lambda i: keys[16 * i : 16 * i + 16])[:count]
    return [listed[place] for place in sorted(chosen)]


def draw(clients: Iterable[ClientId], plan: GraphPlan, entropy: Entropy) -> Graph:
    """The graph of a plan among ``clients``; in the sparse one the order is random."""
    if plan.degree is None:
        return Complete(clients)
    # 128-bit keys: two are equal, and the order then not uniform, once in 2**128 pairs.
    circle = sorted(sorted(clients), key=lambda _: entropy(16))
    return Harary(circle, plan.degree)


@lru_cache(maxsize=256)
def plan_graph(
    clients: int,
    corrupt: Fraction | float | str,
    dropout: Fraction | float | str,
    *,
    active: bool,
    agreed: int = 0,
) -> GraphPlan:
    """Degree and threshold, the smallest degree that keeps the promise above.

    Against a server that may lie: the clients' own picks from 200 clients on, where they halve
    the masks, otherwise the complete graph.

    Args:
      clients: n, who advertised keys.
      corrupt: g, the fraction of them that works with the server.
      dropout: d, the fraction of them that vanishes later.
      active: the server may lie about who is alive.
      agreed: the most clients that could have advertised; a server that lies may have left
        honest ones out, so the corrupt are counted of these.

    Raises:
      InputError: no graph keeps the promise, the complete one included; or the server may
        lie, and there are more than 20,000 clients.
    """
    g, d = as_fraction("corrupt_fraction", corrupt), as_fraction("dropout", dropout)
    if clients < 2:
        raise InputError(f"clients is {clients}, must be at least 2")
    if g + (2 * d if active else d) > MOST_LOST:
        raise InputError(
            f"corrupt_fraction {float(g):g} and dropout {float(d):g}"
            f"{' (twice: active)' if active else ''} leave less than a tenth: no graph is safe"
        )
    corrupted, dropped = int(g * clients), int(d * clients)
    if active:
        return _plan_active(clients, int(g * max(clients, agreed)), dropped)
    for degree in range(2, clients - 1, 2):
        if not _stays_connected(clients, degree, corrupted + dropped):
            continue
        threshold = _threshold(clients, degree, corrupted, clients - dropped)
        if threshold is not None:
            return GraphPlan(degree=degree, threshold=threshold)
    return _plan_complete(clients, corrupted, dropped, max(corrupted, clients // 2) + 1)


def _plan_active(clients: int, corrupted: int, dropped: int) -> GraphPlan:
    if clients > MAX_CLIENTS:
        raise InputError(
            f"{clients} clients: against a server that may lie there are at most {MAX_CLIENTS}"
        )
    quorum = majority(clients, corrupted)
    if picks := plan_picks(clients, corrupted, dropped):
        return GraphPlan(
            degree=picks.holders, threshold=picks.threshold, picks=picks, quorum=quorum
        )
    return _plan_complete(clients, corrupted, dropped, quorum)


def _plan_complete(clients: int, corrupted: int, dropped: int, threshold: int) -> GraphPlan:
    if threshold > clients - dropped:
        raise InputError(
            f"{clients} clients, {corrupted} corrupt and {dropped} lost: a threshold of "
            f"{threshold} is needed and {clients - dropped} would be left"
        )
    return complete(max(threshold, 2))


def _stays_connected(clients: int, degree: int, bad: int) -> bool:
    """Fewer bad clients than cut the circle, or a union bound over the two cuts below 2**-41."""
    if degree > bad:
        return True
    log_cut = (
        log(clients)
        + log(clients - degree - 1)
        - log(2)
        + lgamma(bad + 1)
        - lgamma(bad - degree + 1)
        + lgamma(clients - degree + 1)
        - lgamma(clients + 1)
    )
    return log_cut < -(SECURITY_BITS + 1) * log(2)


def _threshold(clients: int, degree: int, corrupted: int, surviving: int) -> int | None:
    """More shares than corrupt neighbours hold, and no more than neighbours survive."""
    insecure = 2.0 ** -(SECURITY_BITS + 1) / clients
    failing = 2.0**-FAILURE_BITS / clients
    least, probabilities = _hypergeometric(clients, corrupted, degree)
    tail, most_corrupt = 0.0, least + len(probabilities) - 1
    while most_corrupt > 0 and tail + probabilities[-1] < insecure:
        tail += probabilities.pop()
        most_corrupt -= 1
    fewest_alive, probabilities = _hypergeometric(clients, surviving, degree)
    tail = probabilities[0]
    for probability in probabilities[1:]:
        if tail >= failing:
            break
        tail += probability
        fewest_alive += 1
    threshold = max(most_corrupt + 1, 2)
    return threshold if threshold <= fewest_alive else None


def _hypergeometric(population: int, marked: int, drawn: int) -> tuple[int, list[float]]:
    """P[x of those drawn are marked], from some least x on; the rest is below 1e-40 each.

    From the most likely x outwards by the ratio of neighbours, so that every tail
    can be summed from its small end.
    """

    def log_choose(n: int, k: int) -> float:
        return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)

    rest = population - marked
    low, high = max(0, drawn - rest), min(drawn, marked)
    mode = min(max((drawn + 1) * (marked + 1) // (population + 2), low), high)
    peak = exp(
        log_choose(marked, mode) + log_choose(rest, drawn - mode) - log_choose(population, drawn)
    )
    below, above = [peak], [peak]
    x = mode
    while x > low and below[-1] > _NEGLIGIBLE:
        below.append(below[-1] * x * (rest - drawn + x) / ((marked - x + 1) * (drawn - x + 1)))
        x -= 1
    least, x = x, mode
    while x < high and above[-1] > _NEGLIGIBLE:
        above.append(above[-1] * (marked - x) * (drawn - x) / ((x + 1) * (rest - drawn + x + 1)))
        x += 1
    return least, [*reversed(below), *above[1:]]


_NEGLIGIBLE = 1e-40  # ten thousand of them are below 2**-41 / 2**32


def as_fraction(name: str, value: Fraction | float | str) -> Fraction:
    """``value`` in [0, 1), a decimal as it is written: floor(.29 * 100) is 28 in binary."""
    text = str(value)
    if not _FRACTION.fullmatch(text):
        raise InputError(f"{name} {text[:40]!r} is no decimal number such as 0.1")
    fraction = Fraction(text)
    if not 0 <= fraction < 1:
        raise InputError(f"{name} {text} is outside [0, 1)")
    return fraction


# Bounded: a few bytes may not name a number of a million digits.
_FRACTION = re.compile(r"-?(\d{1,20}(\.\d{0,30})?|\.\d{1,30})(e-?\d{1,2})?|\d{1,30}/[1-9]\d{0,29}")
