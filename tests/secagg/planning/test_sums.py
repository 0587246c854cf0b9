import json
from collections.abc import Callable
from fractions import Fraction
from math import comb
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import protocols
from protocols.bonawitz import Agreement
from secagg.errors import InputError
from secagg.planning import Advice, SumWishes, plan_sum
from secagg.planning.sums import COMPLETE_BELOW
from secagg.rounds.in_memory import run_bonawitz
from secagg.stage import Stage
from secagg.vectors.layout import Layout, Segment
from secagg.vectors.quantize import FixedPoint

Run = Callable[..., tuple[int, str, str]]

ORACLES = [  # clients, corrupt, dropout, active -> degree, threshold
    (100, "0.05", "0.33", False, 28, 6),
    (1000, "0.05", "0.33", False, 72, 24),
    (100_000, "0.05", "0.33", False, 96, 32),
    (1000, "0.33", "0.33", False, 286, 150),
    (1000, "0.33", "0.05", True, 77, 59),
]


def plan(**wishes: Any) -> Advice:
    return plan_sum(SumWishes(**wishes), measure=False)


@pytest.mark.parametrize(
    ("clients", "corrupt", "dropout", "active", "degree", "threshold"), ORACLES
)
def test_the_command_gives_the_papers_degrees_and_thresholds(
    secagg: Run,
    clients: int,
    corrupt: str,
    dropout: str,
    active: bool,
    degree: int,
    threshold: int,
) -> None:
    options = ["--clients", clients, "--corrupt-fraction", corrupt, "--dropout", dropout]
    code, out, err = secagg("plan", *options, *["--active"] * active, "--json")
    assert (code, err, out.count("\n")) == (0, "", 1)
    found = json.loads(out)
    assert (found["graph"], found["degree"], found["threshold"]) == ("sparse", degree, threshold)
    assert 0 < found["p_insecure"] <= 2**-40
    assert 0 < found["p_failure"] <= 2**-20
    assert found["client_milliseconds"] > 0
    assert found["server_milliseconds"] > 0


def test_json_holds_every_attribute_and_property_of_the_advice() -> None:
    advice = plan(clients=1000, rounds=7)
    found = json.loads(json.dumps(advice.as_dict()))
    slots = set(type(advice).__slots__)
    computed = {name for name, kind in vars(type(advice)).items() if isinstance(kind, property)}
    assert found.keys() == slots | computed
    for name in found.keys() - {"traffic", "corrupt_fraction", "dropout"}:
        assert found[name] == getattr(advice, name)
    assert (found["corrupt_fraction"], found["dropout"]) == (0.05, 0.1)
    assert found["traffic"].keys() == {"advertise", "share", "mask", "reveal"}
    for part in ("bytes_up", "bytes_down"):
        total = sum(stage[part] for stage in found["traffic"].values())
        assert found[f"{part}_per_client"] == total
    assert (found["client_milliseconds"], found["server_milliseconds"]) == (None, None)


@pytest.mark.parametrize("complete_below", [0, 100])
@pytest.mark.parametrize("active", [False, True])
@pytest.mark.parametrize("entries", [1, 100_000])
def test_the_bytes_are_those_of_a_real_round(
    *, active: bool, complete_below: int, entries: int
) -> None:
    clients = 24
    advice = plan(
        clients=clients,
        active=active,
        entries=entries,
        complete_below=complete_below,
    )
    # Against a server that lies clients pick their holders from 200 on, below all know each other.
    assert advice.graph == ("complete" if complete_below or active else "sparse")
    agreement = Agreement(
        params=advice.params(), session=bytes(range(16)), round=3, public_digest=bytes(32)
    )
    inputs = dict.fromkeys(range(clients), np.zeros(advice.words, np.uint64))
    costs = run_bonawitz(agreement, inputs).costs
    found = {stage: (cost.bytes_up, cost.bytes_down) for stage, cost in costs.items()}
    assert found == {
        stage: (cost.bytes_up, cost.bytes_down) for stage, cost in advice.traffic.items()
    }
    assert list(found) == list(advice.traffic)
    up = sum(cost.bytes_up for cost in costs.values())
    assert advice.bytes_up_per_client == up
    assert advice.bits_per_entry == 8 * up / entries
    assert advice.expansion == up / (4 * entries)


@pytest.mark.parametrize("active", [False, True])
@pytest.mark.parametrize(("clients", "graph"), [(30, "complete"), (110, "sparse")])
def test_a_round_with_the_advised_parameters_gives_the_sum_with_the_planned_dropouts(
    clients: int, graph: str, *, active: bool
) -> None:
    bits, entries = 12, 11
    advice = plan(clients=clients, active=active, entries=entries, bits=bits)
    assert advice.graph == ("complete" if active else graph)
    codec = FixedPoint(clip=advice.clip, bits=advice.bits)
    layout = Layout(segments=(Segment(name="u", entries=entries, codec=codec),), clients=clients)
    assert (layout.words, layout.lanes) == (advice.words, (advice.lanes,))
    values = {client: np.full(entries, client / clients) for client in range(clients)}
    gone = dict.fromkeys(range(int(advice.dropout * clients)), Stage.MASK)
    agreement = Agreement(
        params=advice.params(), session=bytes(16), round=0, public_digest=bytes(32)
    )
    outcome = run_bonawitz(
        agreement, {client: layout.encode({"u": value}) for client, value in values.items()}, gone
    )
    assert outcome.survivors == tuple(range(len(gone), clients))
    total = sum(values[client] for client in outcome.survivors)
    assert np.all(abs(layout.decode(outcome.values)["u"] - total) < advice.step * clients)


def test_the_graph_is_complete_where_there_are_few_clients_and_sparse_above() -> None:
    below, above = (plan(clients=n) for n in (COMPLETE_BELOW - 1, COMPLETE_BELOW))
    assert (below.graph, below.degree, below.threshold) == ("complete", 98, 50)
    assert (below.p_insecure, below.p_failure) == (0.0, 0.0)
    assert (above.graph, above.degree) == ("sparse", 16)
    assert below.params().rates is None
    assert above.params().threshold is None


def test_few_clients_of_whom_no_majority_survives_get_a_sparse_graph() -> None:
    advice = plan(clients=90, corrupt_fraction=0, dropout="0.6")
    assert advice.graph == "sparse"
    assert advice.params().minimum_survivors == 90 - 54


@given(clients=st.integers(2, COMPLETE_BELOW - 1), corrupt=st.integers(0, 33), active=st.booleans())
def test_a_complete_graphs_threshold_is_one_that_its_clients_accept(
    clients: int, corrupt: int, *, active: bool
) -> None:
    try:
        advice = plan(
            clients=clients, corrupt_fraction=Fraction(corrupt, 100), dropout=0, active=active
        )
    except protocols.InputError:
        assume(condition=False)
    corrupted = corrupt * clients // 100
    assert advice.graph == "complete"
    assert 2 * advice.threshold > clients + (corrupted if active else 0)
    assert advice.threshold > corrupted
    assert advice.params().corrupted == (corrupted if active else 0)


@settings(max_examples=60, deadline=None)
@given(
    clients=st.one_of(st.integers(2, 2000), st.sampled_from([10**5, 10**7, 10**9])),
    corrupt=st.integers(0, 25),
    dropout=st.integers(0, 30),
    active=st.booleans(),
)
def test_both_probabilities_keep_the_promise_in_exact_arithmetic(
    clients: int, corrupt: int, dropout: int, *, active: bool
) -> None:
    try:
        advice = plan(
            clients=clients,
            corrupt_fraction=Fraction(corrupt, 100),
            dropout=Fraction(dropout, 100),
            active=active,
            entries=1,
            complete_below=0,
        )
    except protocols.InputError:
        assume(condition=False)
    assert 0 <= advice.p_insecure <= 2**-40
    assert 0 <= advice.p_failure <= 2**-20


def test_tails_are_not_lost_to_rounding() -> None:
    """Against the definition, term by term in fractions; 1 minus a sum has nothing left here."""
    n, k, t, corrupted, lost = 1000, 286, 150, 330, 330
    advice = plan(clients=n, corrupt_fraction="0.33", dropout="0.33", rounds=1000)
    assert (advice.degree, advice.threshold) == (k, t)

    def exactly(x: int, marked: int) -> Fraction:
        return Fraction(comb(marked, x) * comb(n - marked, k - x), comb(n, k))

    cuts = Fraction(n * (n - k - 1), 2) * Fraction(comb(corrupted + lost, k), comb(n, k))
    insecure = cuts + n * sum(exactly(x, corrupted) for x in range(t, k + 1))
    failure = n * sum(exactly(x, n - lost) for x in range(t))
    assert advice.p_insecure == pytest.approx(float(insecure), rel=1e-12, abs=0)
    assert advice.p_failure == pytest.approx(float(failure), rel=1e-12, abs=0)
    assert advice.p_insecure_any_round == 1000 * advice.p_insecure
    assert advice.p_failure_any_round == 1000 * advice.p_failure


def test_against_a_server_that_lies_it_is_what_picks_are_planned_for() -> None:
    n, k, t, corrupted = 1000, 77, 59, 330
    advice = plan(clients=n, corrupt_fraction="0.33", dropout="0.05", active=True)
    assert (advice.degree, advice.threshold) == (k, t)
    tail = sum(
        Fraction(comb(corrupted, x) * comb(n - 1 - corrupted, k - x), comb(n - 1, k))
        for x in range(t, k + 1)
    )
    assert (n - corrupted) * tail < advice.p_insecure == 2.0**-40


@pytest.mark.parametrize(
    ("clients", "bits", "lanes", "words"),
    [(100, 11, 3, 333_334), (100, 16, 2, 500_000), (100_000, 16, 1, 10**6), (20, 5, 6, 166_667)],
)
def test_lanes_hold_the_largest_sum(clients: int, bits: int, lanes: int, words: int) -> None:
    advice = plan(clients=clients, bits=bits)
    assert (advice.lanes, advice.words) == (lanes, words)
    assert clients * (2 ** (bits - 1) - 1) < 2 ** (advice.lane_bits - 1)
    assert advice.step == 1 / (2 ** (bits - 1) - 1)


def test_a_clip_scales_the_step_alone() -> None:
    one, four = (plan(clients=20, clip=clip) for clip in (1.0, 4.0))
    assert four.step == 4 * one.step
    assert four.traffic == one.traffic


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"lanes": 3}, InputError, "does not fit a 21-bit lane"),
        ({"lanes": 9}, InputError, "lanes 9"),
        ({"rounds": 0}, InputError, "rounds 0"),
        ({"rounds": 1.5}, InputError, "rounds 1.5"),
        ({"rounds": True}, InputError, "rounds True"),
        ({"entries": 0}, InputError, "entries is 0"),
        ({"clip": float("nan")}, InputError, "clip nan"),
        ({"clients": 1}, protocols.InputError, "at least 2"),
        ({"corrupt_fraction": "0.5", "dropout": "0.45"}, protocols.InputError, "no graph is safe"),
        (
            {"corrupt_fraction": "0.3", "dropout": "0.4", "active": True},
            protocols.InputError,
            "no graph is safe",
        ),
        ({"corrupt_fraction": "most"}, protocols.InputError, "no decimal number"),
        ({"dropout": 1}, protocols.InputError, "outside"),
        ({"dropout": float("nan")}, protocols.InputError, "no decimal number"),
    ],
)
def test_what_cannot_be_is_a_typed_error(
    changed: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        plan(**{"clients": 100, **changed})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--clients"),
        (["--clients", "many"], "many"),
        (["--clients", "1"], "at least 2"),
        (["--clients", "-4"], "clients -4"),
        (["--clients", "100", "--dropout", "0.95"], "no graph is safe"),
        (["--clients", "100", "--dropout", "nan"], "nan"),
        (["--clients", "100", "--corrupt-fraction", "-0.1"], "corrupt_fraction -0.1"),
        (["--clients", "100", "--bits", "40"], "bits 40"),
        (["--clients", "100", "--clip", "0"], "clip 0"),
        (["--clients", "100", "--entries", "-1"], "entries -1"),
        (["--clients", "100", "--rounds", "0"], "rounds 0"),
        (["--clients", "10", "--corrupt-fraction", "0.3", "--dropout", "0.6"], "needed"),
        (["--clients", "100", "--nonsense"], "No such option"),
    ],
)
def test_bad_input_is_one_line_on_stderr_and_exit_code_2(
    secagg: Run, arguments: list[str], words: str
) -> None:
    code, out, err = secagg("plan", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("secagg: ")
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "rows", "sentence"),
    [
        (
            ["--clients", "1000", "--dropout", "0.33", "--rounds", "50"],
            ["sparse", "72 neighbours", "24 shares", "of 72", "unsafe graph", "2^-", "50 rounds"],
            "Each client shares with 72 of 1,000; any 24 of them can stand in for one that is "
            "gone, and 330 may drop out. It sends 4.01 MB, 1.00 times a plain fp32 vector.",
        ),
        (
            ["--clients", "50", "--active"],
            ["complete", "49 neighbours", "27 shares", "of 50", "sign", "failed round", "ms"],
            "Each client shares with all 49 others; any 27 of the 50 can stand in for one that is "
            "gone, and 23 may drop out. It sends 4.01 MB, 1.00 times a plain fp32 vector.",
        ),
    ],
)
def test_people_get_a_table_and_a_sentence(
    secagg: Run, arguments: list[str], rows: list[str], sentence: str
) -> None:
    code, out, err = secagg("plan", *arguments)
    assert (code, err) == (0, "")
    *table, last = out.splitlines()
    assert last == sentence
    for row in rows:
        assert any(row in line for line in table)


def test_help_has_examples(secagg: Run) -> None:
    code, out, _ = secagg("plan", "--help")
    assert code == 0
    assert "secagg plan --clients 1000 --corrupt-fraction 0.33 --dropout 0.05 --active" in out


def test_beside_its_vector_a_client_that_picks_its_holders_moves_224_kilobytes_of_a_thousand() -> (
    None
):
    wishes = SumWishes(clients=1000, corrupt_fraction="0.1", dropout="0.3", active=True)
    advice = plan_sum(wishes, measure=False)
    moved = advice.bytes_up_per_client + advice.bytes_down_per_client - 8 * advice.words
    assert 223_000 < moved < 225_000
