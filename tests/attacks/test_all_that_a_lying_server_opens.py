"""What real clients let a lying server open is what their rules do, and nothing beside.

``openable`` says it by the rules alone. Its smallest sets were compared with those that a
constraint solver found for a server which chooses every box, every mark and every set, for
the 40 graphs below: the numbers are the solver's. Here real clients are played against it.
"""

import random
from collections.abc import Iterator

import pytest
from lying import Lying, Sets, few_clients_pick, openable, params_of, parts_of, remember

from protocols.bonawitz import Rates
from protocols.bonawitz.graph import plan_graph
from protocols.bonawitz.picks import plan_picks

SMALLEST = (  # by the seed of the graph
    *(4, 4, 6, 4, 3, 7, 8, 4, 6, 7, 8, 6, 7, 4, 5, 4, 7, 8, 5, 2),
    *(5, 5, 5, 6, 5, 6, 8, 8, 5, 7, 4, 4, 5, 7, 5, 3, 7, 7, 7, 6),
)


class Drawn:
    """A small graph, and who is corrupt: nobody, or one client."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)  # noqa: S311 -- a graph, as the search drew it
        self.clients, self.holders = rng.choice([6, 7, 8]), rng.choice([2, 3])
        self.threshold, corrupt = rng.choice([2, self.holders]), rng.choice([0, 0, 1])
        everybody = range(self.clients)
        self.picks: Sets = {
            n: frozenset(rng.sample([peer for peer in everybody if peer != n], self.holders))
            for n in everybody
        }
        self.corrupt = frozenset(rng.sample(everybody, corrupt))
        self.quorum = (self.clients + corrupt) // 2 + 1
        self.openable = openable(self.picks, self.threshold, self.quorum, self.quorum, self.corrupt)

    def played_by(self, monkeypatch: pytest.MonkeyPatch) -> Lying:
        few_clients_pick(monkeypatch, self.holders, self.threshold)
        rates = Rates(corrupt_fraction=f"{len(self.corrupt)}/{self.clients}", dropout=0)
        params = params_of(self.clients, rates=rates)
        server = Lying(self.clients, self.corrupt, params=params, picks=self.picks)
        assert (server.quorum, server.needed) == (self.quorum, self.quorum)
        return server


@pytest.mark.parametrize("seed", range(len(SMALLEST)))
def test_the_smallest_set_is_that_of_the_exact_search(seed: int) -> None:
    assert min(map(len, Drawn(seed).openable)) == SMALLEST[seed]


def cut(server: Lying, part: frozenset[int], rest: frozenset[int]) -> None:
    """No box passes into or out of the part; its picks outside are said never to have shared.

    Of those that are not named either only as many as a client lets be lost: the others' mask
    keys are rebuilt.
    """
    everybody, inside = frozenset(server.everybody), part
    spare = len(everybody) - server.needed
    hidden: dict[int, frozenset[int]] = {}
    for n in everybody:
        across = everybody - inside - server.corrupt if n in inside else inside
        first = sorted(server.picks[n] & across, key=lambda peer: peer not in rest)
        hidden[n] = frozenset(first[:spare] if n in inside else first)
    shared = {n: everybody - hidden[n] for n in everybody}
    own = inside | server.corrupt
    server.mask({n: shared[n] & own if n in inside else shared[n] for n in everybody}, shared)


@pytest.mark.parametrize("seed", [0, 4, 8, 13, 19, 35])
def test_real_clients_open_each_set_of_the_model(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = Drawn(seed)
    remember(monkeypatch)
    server = drawn.played_by(monkeypatch)
    smallest = sorted(drawn.openable, key=len)[:9]
    for part in smallest:
        alive = drawn.openable[part]
        cut(server, part, alive - part - drawn.corrupt)
        parts = [found for found, _ in server.open(dict.fromkeys(server.everybody, alive))]
        assert any(found <= part for found in parts)
        assert all(found in drawn.openable for found in parts)


def plays(server: Lying) -> Iterator[tuple[dict[int, frozenset[int]], dict[int, frozenset[int]]]]:
    """Boxes and sets for every two views of all clients, each of one part of them."""
    honest = frozenset(server.honest)
    for part in parts_of(honest, 1):
        for rest in parts_of(honest - part):
            for views in (
                (part | rest, part | rest),
                (part | rest, honest),
                (part, honest),
                (part, rest),
            ):
                one, other = (view | server.corrupt for view in views)
                yield (
                    {n: part if n in part else rest for n in honest},
                    {n: one if n in part else other for n in honest},
                )


def play_all(server: Lying, drawn: Drawn) -> int:
    """Every play, each three times: who is cut off is told so, or is not, or one way alone."""
    opened, everybody = 0, frozenset(server.everybody)
    for side, named in plays(server):
        masked = {n: side[n] | server.corrupt if n in side else everybody for n in everybody}
        told = dict.fromkeys(everybody, everybody)
        for shared in (
            None,
            told,
            {n: masked[n] if n in named[min(named)] else told[n] for n in told},
        ):
            server.mask(masked, shared)
            parts = [part for part, _ in server.open(named)]
            opened += len(parts)
            for part in parts:
                assert part in drawn.openable, (side, named)
    return opened


@pytest.mark.parametrize("seed", [3])
def test_no_play_of_two_views_of_six_opens_a_set_beside_the_models(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = Drawn(seed)
    remember(monkeypatch)
    assert play_all(drawn.played_by(monkeypatch), drawn)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 13, 0, 19])
def test_no_play_of_six_to_eight_does(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = Drawn(seed)
    remember(monkeypatch)
    assert play_all(drawn.played_by(monkeypatch), drawn)


# The planner's own graph


@pytest.mark.slow
def test_two_hundred_clients_of_the_planner_open_one_large_sum_in_200_random_plays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Corrupt clients mark and sign all; a part of a random size is shown another round."""
    remember(monkeypatch)
    clients, rng = 200, random.Random(1)  # noqa: S311 -- plays
    corrupt = rng.sample(range(clients), 10)
    rates = Rates(corrupt_fraction="0.05", dropout="0.1")
    picks = plan_picks(clients, 10, 20)
    assert picks is not None
    assert plan_graph(clients, rates.corrupt_fraction, rates.dropout, active=True).picks == picks
    server = Lying(clients, corrupt, params=params_of(clients, rates=rates))
    honest, everybody = frozenset(server.honest), frozenset(server.everybody)
    opened = 0
    for _ in range(200):
        part = frozenset(rng.sample(server.honest, rng.randrange(20, 180)))
        lost = frozenset(rng.sample(server.honest, rng.choice([0, 0, 20])))
        kept = [part | server.corrupt, everybody - part, everybody]
        for_part, for_rest = rng.choice(kept), rng.choice(kept)
        told = rng.random() < 0.5
        boxes = {n: for_part if n in part else for_rest for n in everybody}
        server.mask(boxes, dict.fromkeys(everybody, everybody) if told else None)
        one, other = rng.choice([part | server.corrupt, everybody]), rng.choice(kept)
        named = {n: (one if n in part else other) - lost for n in honest}
        parts = [found for found, _ in server.open(named)]
        signed = {alive for alive, _ in server.revealed.values()}
        assert len(parts) <= 1
        for found in parts:
            opened += 1
            (alive,) = signed
            assert len(alive) >= server.needed
            assert len(found) >= len(alive) - len(corrupt) - picks.left_out > picks.alpha
    assert opened >= 10
