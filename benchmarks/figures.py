"""Draws what docs show, from results/*.json alone; nothing is measured.

    make figures

SVGs go beside their JSON; a table goes into its page, between ``<!-- table: NAME -->`` and
``<!-- end -->``. ``--check`` writes nothing and fails where a file is not what would be written.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from secagg.attacks.charts import called, sheet
from secagg.attacks.inversion import HIDDEN
from secagg.attacks.page import drawings
from secagg.attacks.suite import Found
from secagg.bench import utility
from secagg.bench.costs import PLAIN, PROTOCOLS, Cost, growth, plot
from secagg.bench.paper import expansions
from secagg.bench.records import Measurements
from secagg.bench.yardsticks import REFERENCES
from secagg.pages.numbers import at_least, bound, elapsed, percent, size

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (
    "docs/benchmarks.md",
    "docs/compression.md",
    "docs/flare.md",
    "docs/language-models.md",
    "docs/ner.md",
    "docs/network.md",
    "docs/privacy/attacks.md",
    "docs/privacy/utility.md",
    "docs/programs.md",
    "docs/protocols/ckks.md",
    "docs/ranks.md",
    "docs/uneven-devices.md",
)
AT = {"entries": 10**4, "dropout": 0.1}  # of the plot over clients
SHOWN = {"clients": 100, "entries": 10**5}  # of the table over protocols


def costs() -> list[Cost]:
    return [point.cost for point in Measurements.read(RESULTS / "costs.json").points]


def attacks() -> Found:
    return Found.read(RESULTS / "attack.json")


def peers() -> dict[str, Any]:
    return dict(json.loads((RESULTS / "peers.json").read_text())["benchmarks"])


def programs(name: str) -> list[dict[str, Any]]:
    """What a program of examples said, run by run."""
    kept = json.loads((RESULTS / "programs.json").read_text())
    return [said for command, said in kept.items() if f"/{name}/" in command]


def hospitals() -> dict[str, Counter[str]]:
    """By hospital how many of those held out each model gets right, over all folds."""
    found: dict[str, Counter[str]] = {}
    for said in programs("hospitals"):
        for name, row in said["hospitals"].items():
            found.setdefault(name, Counter()).update(row["right"], held_out=row["held_out"])
    return found


# Pictures


def over_clients() -> bytes:
    """One client's seconds, all its stages, and opening the sum where it does that too."""
    mpl.rcParams["svg.hashsalt"] = "clients"
    figure = Figure(figsize=(5.5, 4.2), layout="constrained")
    axes = figure.subplots()
    chosen = [p for p in costs() if (p.entries, p.dropout) == tuple(AT.values())]
    for place, protocol in enumerate(PROTOCOLS):
        line = sorted(
            (p.clients, p.client_seconds + p.decryptor_seconds)
            for p in chosen
            if p.protocol == protocol != PLAIN
        )
        if line:
            axes.plot(*zip(*line, strict=True), "o-", color=f"C{place}", label=protocol)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="clients",
        ylabel="CPU seconds of one client that opens the sum too",
    )
    axes.set_title(f"{AT['entries']:,} entries, {AT['dropout']:.0%} lost", fontsize="medium")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize="small")
    return _svg(figure)


def uploads() -> list[tuple[str, float, bool]]:
    """What a client sends an entry; whether it is ours."""
    found = peers()
    bars = [("plain float32 (Flower, FedAvg)", _peer(found, "fedavg", "theirs") / 10**6, False)]
    for name, bits in (("complete", 14), ("complete-22-bits", 22)):
        sent = found[f"bench_flower_secaggplus::test_client[{name}]"]["bytes"]
        bars.append((f"masks, {bits} bits", sent["our_up"] / 10**6, True))
        bars.append((f"Flower SecAgg+, {bits} bits", sent["their_up"] / 10**6, False))
    models = {
        "SHARED_KEY": ("shared key", "symmetric"),
        "THRESHOLD": ("threshold key", "public key"),
    }
    for model, (ours, theirs) in models.items():
        kept = found[f"bench_tenseal::test_encryption_to_bytes[{model}]"]
        bars.append((f"CKKS, {ours}", kept["ours_bytes_an_entry"], True))
        bars.append((f"TenSEAL, {theirs}", kept["theirs_bytes_an_entry"], False))
    return bars


def over_peers() -> bytes:
    mpl.rcParams["svg.hashsalt"] = "bytes"
    figure = Figure(figsize=(5.5, 4.2), layout="constrained")
    axes = figure.subplots()
    bars = uploads()[::-1]
    colours = ["C0" if ours else "0.7" for _, _, ours in bars]
    axes.barh([name for name, _, _ in bars], [value for _, value, _ in bars], color=colours)
    for row, (_, value, _) in enumerate(bars):
        axes.text(value * 1.05, row, f"{value:.3g}", va="center", fontsize="small")
    axes.set(xscale="log", xlabel="bytes an entry that a client sends", xlim=(1, 200))
    return _svg(figure)


def over_programs() -> bytes:
    """Points of accuracy: of each program beside all data at one place, of a hospital beside alone.

    Masks should move nothing; that clients differ, and who they are, does.
    """
    mpl.rcParams["svg.hashsalt"] = "programs"
    runs = [
        (f"softmax, {said['clients']} clients, alpha {said['alpha']:g}", said)
        for said in programs("softmax_784")
    ]
    runs += [(f"{said['model']} of 4 peers", said) for said in programs("ddp")]
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes, beside = figure.subplots(1, 2)
    for twin, marker in (("plain", "s"), ("secure", ".")):
        points = [100 * (said[f"{twin}_accuracy"] - said["central_accuracy"]) for _, said in runs]
        axes.plot(points, [name for name, _ in runs], marker, label=twin)
    axes.set(xlabel="points beside all data at one place")
    for model, marker in (("plain", "s"), ("masked", "."), ("noisy", "x")):
        points = [
            100 * (row[model] - row["alone"]) / row["held_out"] for row in hospitals().values()
        ]
        beside.plot(points, list(hospitals()), marker, label=model)
    beside.set(xlabel="points beside a hospital alone")
    for each in (axes, beside):
        each.invert_yaxis()
        each.axvline(0, color="0.7", zorder=0)
        each.set_xlim(-5, 5)
        each.grid(visible=True, axis="x", alpha=0.3)
        each.legend(fontsize="small")
    return _svg(figure)


PICTURES: dict[str, Callable[[], bytes]] = {
    "costs.svg": lambda: plot([p for p in costs() if p.clients <= 100 and p.entries <= 10**5]),
    "clients.svg": over_clients,
    "attack_membership.svg": lambda: sheet(drawings(attacks())["membership"]),
    "attack_audit.svg": lambda: sheet(drawings(attacks())["audit"]),
    "attack_pictures.svg": lambda: sheet(drawings(attacks())["pictures"]),
    "bytes.svg": over_peers,
    "programs.svg": over_programs,
    "utility.svg": lambda: utility.plot(utility.read(RESULTS / "utility.json")["runs"]),
}


# Tables


def table_costs() -> str:
    chosen = [p for p in costs() if (p.clients, p.entries) == tuple(SHOWN.values())]
    order = sorted(chosen, key=lambda p: (PROTOCOLS.index(p.protocol), p.dropout))
    rows = [_row(p, f"{100 * p.dropout:g}") for p in order]
    return _table(
        "protocol | lost, % | client | decryptor | server | sends | is sent | B/entry", rows
    )


def table_clients() -> str:
    chosen = [p for p in costs() if (p.entries, p.dropout) == tuple(AT.values())]
    order = sorted(chosen, key=lambda p: (PROTOCOLS.index(p.protocol), p.clients))
    rows = [_row(p, f"{p.clients:,}", p.neighbours or "–") for p in order if p.protocol != PLAIN]
    return _table(
        "protocol | clients | neighbours | client | decryptor | server | sends | is sent | B/entry",
        rows,
    )


def table_growth() -> str:
    rows = []
    for protocol, cost, found in growth(costs()):
        powers = (found.get(name) for name in ("clients", "entries"))
        cells = (
            "–"
            if fit is None or fit.low is None
            else f"{fit.power:z.2f} ({fit.low:z.2f} to {fit.high:z.2f})"
            for fit in powers
        )
        rows.append([protocol, cost.replace("_", " "), *cells])
    return _table("protocol | cost | of clients | of entries", rows)


def table_expansion() -> str:
    rows = []
    for each in expansions():
        factors = (each.published, each.formula, each.complete, each.sparse)
        cells = ("–" if factor is None else f"{factor:.2f}" for factor in factors)
        rows.append([f"{each.clients:,}", f"{each.entries:,}", *cells])
    return _table(
        "clients | entries | published | its formula | ours, complete | ours, sparse", rows
    )


def table_times() -> str:
    points = [point.cost for point in Measurements.read(RESULTS / "paper.json").points]
    rows = [
        [
            f"{p.clients:,}",
            f"{p.entries:,}",
            f"{100 * p.dropout:g}",
            elapsed(p.client_seconds),
            elapsed(p.server_seconds),
            size(p.bytes_up),
            size(p.bytes_down),
        ]
        for p in points
    ]
    return _table("clients | entries | lost, % | client | server | sends | is sent", rows)


def table_peers() -> str:
    """Each ratio with its interval, as the benchmark wrote it."""
    rows = []
    for name, info in peers().items():
        module, _, test = name.partition("::")
        ratios = {
            tuple(pair.split("/")): ratio
            for pair, ratio in info["ratios"].items()
            if pair.rpartition("/")[2] not in REFERENCES
        }
        for party in ("client", "server"):
            if ratio := info.get(f"{party}_times_plain"):
                ratios[f"ours/{party}", f"theirs/{party}"] = ratio
        for (one, other), ratio in ratios.items():
            rows.append(
                [
                    f"{module.removeprefix('bench_').replace('_', ' ')}: {_said(test)}",
                    f"{one} over {other}",
                    elapsed(info["seconds"][one]),
                    elapsed(info["seconds"][other]),
                    f"{ratio['value']:.3g} ({ratio['low']:.3g} to {ratio['high']:.3g})",
                    "–" if info.get("peak_memory") is None else size(info["peak_memory"]),
                ]
            )
    return _table("what | ratio of | first | second | ratio | peak memory of the first", rows)


def table_uploads() -> str:
    return _table("what | bytes an entry", [[name, f"{value:.3g}"] for name, value, _ in uploads()])


def table_flower() -> str:
    """The first sum, and the median of the later ones, stage by stage."""
    rows = []
    for found in json.loads((RESULTS / "flower_rounds.json").read_text()):
        kinds: dict[tuple[int, bool], list[dict[str, Any]]] = {}
        for said in found["rounds"]:
            kinds.setdefault((said["entries"], said["secure"]), []).append(said)
        for (entries, secure), rounds in kinds.items():
            first, *later = rounds
            stages = ", ".join(
                f"{stage['stage']} {stage['seconds']:.0f}" for stage in rounds[-1].get("stages", [])
            )
            rows.append(
                [
                    found["engine"],
                    f"{found['nodes']:,}",
                    f"{100 * found['lost']:g}",
                    f"{entries:,}",
                    "secure" if secure else "plain",
                    f"{first['seconds']:.0f} s",
                    f"{median(said['seconds'] for said in later):.0f} s",
                    stages or "–",
                ]
            )
    return _table("engine | nodes | lost, % | entries | round | first | later | last one, s", rows)


def table_membership() -> str:
    rows = []
    for one in (one for group in attacks().membership for one in group):
        rates = (
            (percent(rate.true_positive_rate), f"{percent(rate.low)} to {percent(rate.high)}")
            for rate in one.rates
        )
        cells = (cell for pair in rates for cell in pair)
        about = (one.mode, f"{one.pool:,}", one.attack, f"{one.auc:.3f}")
        rows.append([*about, *cells, percent(one.accuracy)])
    return _table(
        "mode | pool | attack | area under the curve | true at 1 % | 95 % interval "
        "| true at 0.1 % | 95 % interval | accuracy",
        rows,
    )


def table_audits() -> str:
    """Bounds rounded down, beside what is stated, rounded up."""
    found, rows = attacks(), []
    for one in found.audits:
        counts = one.found.as_dict()["counts"]
        how = f"bound, {counts['correct']} of {counts['guesses']} guesses right"
        value = f"at least {at_least(one.found.epsilon)}"
        rows.append([called(one), value, how, bound(one.stated), "yes" if one.refuted else "no"])
    for one in found.canaries:
        how = f"estimate, cosines of {one.found.as_dict()['canaries']} canaries"
        value = f"about {one.found.epsilon:.2f}"
        rows.append([called(one), value, how, bound(one.stated), "cannot be"])
    return _table("mechanism | found | how | stated | refuted", rows)


def table_inversion() -> str:
    names = {"softmax": "softmax regression", "mlp": f"network, {HIDDEN} hidden"}
    groups = attacks().inversions
    rows = [
        [names[group[0].model], *(f"{one.recovered} of {one.clients}" for one in group)]
        for group in groups
    ]
    _, summed, noised = groups[0]
    return _table(
        f"model | one update | sum of {summed.clients} | noised sum, epsilon "
        f"{bound(noised.epsilon)}",
        rows,
    )


def table_squares() -> str:
    rows = []
    for said in programs("linear_regression"):
        for way in ("descent", "solution"):
            kept = said[way]
            rounds = "one sum" if way == "solution" else f"{said['rounds']} rounds"
            qualities = (f"{kept[f'{twin}_r2']:.4f}" for twin in ("central", "plain", "secure"))
            off = (f"{kept[name]:.1e}" for name in ("secure_off", "bound"))
            rows.append([said["data"], f"{said['clients']}", rounds, *qualities, *off])
    return _table("data | clients | way | central | plain | secure | off by | at most", rows)


def table_softmax() -> str:
    rows = []
    for said in programs("softmax_784"):
        own, low = said["own_tests"], said["own_tests"]["lowest_tenth"]
        worst = own["clients_by_tenth"][round(10 * low)]
        lowest = f"{worst} between {low:.1f} and {low + 0.1:.1f}"
        about = (f"{said['clients']}", f"{said['alpha']:g}")
        rows.append([*about, *_twins(said), f"{own['accuracy']:.3f}", lowest])
    return _table("clients | alpha | central | plain | secure | own images | lowest clients", rows)


def table_hospitals() -> str:
    models = ("alone", "central", "plain", "masked", "noisy")
    found = hospitals()
    rows = [
        [name, *(f"{row[each]}" for each in ("held_out", *models))] for name, row in found.items()
    ]
    people = sum(row["held_out"] for row in found.values())
    whole = (f"{sum(row[each] for row in found.values()) / people:.3f}" for each in models)
    return _table(f"hospital | held out | {' | '.join(models)}", [*rows, ["accuracy", "", *whole]])


def table_ranks() -> str:
    rows = [
        [said["model"], f"{said['steps']}", *_twins(said), f"{said['losses_apart']:.1e}"]
        for said in programs("ddp")
    ]
    return _table("model | steps | central | plain | secure | losses apart", rows)


def table_compression() -> str:
    found = json.loads((RESULTS / "compression.json").read_text())["rows"]
    whole = sum(found["whole, 16 bits"]["accuracy"])
    rows = []
    for name, row in found.items():
        mean = sum(row["accuracy"]) / len(row["accuracy"])
        off = 100 * (sum(row["accuracy"]) - whole) / len(row["accuracy"])
        times = f"{row['times_fewer']:.1f}"
        rows.append([name, f"{mean:.3f}", f"{off:+.1f}", f"{row['bytes']:,}", times])
    return _table("what is sent | accuracy | points | bytes a round | times fewer than fp32", rows)


def table_speakers() -> str:
    """A row a run, the untouched model first; peak memory is that of a whole command."""
    rows, seen = [], set()
    for said in json.loads((RESULTS / "language.json").read_text()).values():
        model = f"{said['model']}, {said['parameters'] / 1e6:.1f} million"
        if model not in seen:
            rows.append([model, "", "untouched", "", f"{said['untouched']:.1f}", "", "", "", ""])
        seen.add(model)
        for name, run in said["runs"].items():
            better = run["perplexity"] / said["untouched"] - 1
            rows.append(
                [
                    "",
                    f"{said['clients']}",
                    f"{name}, rounds: {said['rounds']}",
                    f"{run['epsilon']:.2f}" if "epsilon" in run else "",
                    f"{run['perplexity']:.1f}",
                    f"{better:+.1%}",
                    f"{run['seconds'] / said['rounds']:.0f}",
                    f"{run['bytes_up_per_client'] / 1e6:.2f} MB",
                    f"{said['peak_mb'] / 1024:.1f} GiB",
                ]
            )
    head = "model | speakers | run | epsilon | perplexity | beside untouched | seconds a round"
    return _table(f"{head} | a speaker sends | peak memory", rows)


def table_tagger() -> str:
    names = {
        "central": "central: all sentences at one place",
        "plain": "plain: sums in the open",
        "secure": "secure: encrypted sums",
        "private": "private: encrypted sums, noise",
    }
    rows = []
    for name, run in json.loads((RESULTS / "ner.json").read_text())["runs"].items():
        scores = (
            f"{run['scores'][of]['f1']:.3f}" for of in ("PER", "LOC", "MISC", "micro", "token")
        )
        sent = f"{run['bytes_up_per_client'] / 1e6:.2f} MB" if "bytes_up_per_client" in run else ""
        rows.append([names[name], *scores, f"{run['seconds']:.0f}", sent])
    head = "PER | LOC | MISC | all entities | single tokens, O counted | seconds"
    return _table(f" | {head} | a silo sends, a round", rows)


def table_buffered() -> str:
    """Of each way three seeds; a synchronous round has everybody's share as it is."""
    names = {
        "all": "everybody, synchronous",
        "drawn": "10 drawn, synchronous",
        "mixed": "buffered, `minimum_same=3`",
        "alike": "buffered, one version a sum",
    }
    runs = json.loads((RESULTS / "buffered.json").read_text())["runs"]
    seeds = [{way["way"]: way for way in run["ways"]} for run in runs]
    rows = []
    for way, name in names.items():
        times = [seed["all"]["time"] / seed[way]["time"] for seed in seeds]
        faster = [f"{each:.0f}x" if each > 10 else f"{each:.1f}x" for each in times]
        own = [seed[way] for seed in seeds]
        waiting = way in {"all", "drawn"}
        rows.append(
            [
                name,
                ", ".join(f"{each['time']:.0f}" for each in own),
                "1" if way == "all" else ", ".join(faster),
                "25 %" if waiting else ", ".join(f"{each['slowest_quarter']:.1%}" for each in own),
                "0" if waiting else ", ".join(f"{each['stale']:.1f}" for each in own),
            ]
        )
    head = "way | time to target | against everybody"
    return _table(
        f"{head} | share of the slowest quarter in the sums | versions behind, mean", rows
    )


def table_engines() -> str:
    """What one party does and sends in a round, of the three protocols that this library brings."""
    columns = {"complete": "masks", "ckks": "shared key", "threshold-ckks": "threshold key"}
    rows = []
    for clients, entries in ((10, 10**6), (100, 10**5), (100, 10**3)):
        found = {
            point.protocol: point
            for point in costs()
            if (point.clients, point.entries, point.dropout) == (clients, entries, 0)
        }
        points = [found[protocol] for protocol in columns]
        cells: dict[str, Callable[[Cost], str]] = {
            "a client works": lambda point: elapsed(point.client_seconds),
            "a decryptor works, besides": lambda point: _some(point.decryptor_seconds, elapsed),
            "the server works": lambda point: elapsed(point.server_seconds),
            "a client sends": lambda point: size(point.bytes_up),
            "a client is sent": lambda point: _some(point.bytes_down, size),
            "a decryptor sends": lambda point: _some(point.decryptor_up, size),
            "a decryptor is sent": lambda point: _some(point.decryptor_down, size),
        }
        about = f"{clients} x {entries:,}"
        rows += [[about, what, *map(cell, points)] for what, cell in cells.items()]
    return _table(f"clients x entries | | {' | '.join(columns.values())}", rows)


def table_encryption() -> str:
    """Beside TenSEAL's vectors, which one whole key and a public one encrypt."""
    rows = []
    names = {
        "SHARED_KEY": ("symmetric", "shared key"),
        "THRESHOLD": ("public key", "threshold key"),
    }
    for model, (theirs, ours) in names.items():
        kept = peers()[f"bench_tenseal::test_encryption_to_bytes[{model}]"]
        cells = (f"{kept['theirs_ns_an_entry']:.0f}", f"{kept['theirs_bytes_an_entry']:.3g}")
        rows.append([f"TenSEAL's vectors, {theirs}", *cells, "1"])
        fast = kept["times_as_fast"]
        times = f"{fast['value']:.3g} ({fast['low']:.3g} to {fast['high']:.3g})"
        cells = (f"{kept['ours_ns_an_entry']:.0f}", f"{kept['ours_bytes_an_entry']:.3g}")
        rows.append([ours, *cells, times])
    return _table("what | ns an entry | bytes an entry | times as fast (95 %)", rows)


def table_http() -> str:
    """The first sum, and the best of the later ones; the floor is that one's."""
    rows = []
    for command, said in networks("http_sums.py sums").items():
        words = command.split()
        nodes, entries = (int(words[words.index(f"--{name}") + 1]) for name in ("nodes", "entries"))
        first, *later = said["sums"]
        best = min(later, key=lambda each: float(each["seconds"]))
        alone = best.get("CPU without network")
        on_the_way, peak = best["bytes' seconds"], said["server's peak, MiB"]
        floor = "–" if alone is None else f"{elapsed(on_the_way)} + {elapsed(alone)}"
        rows.append(
            [
                f"{nodes:,}",
                f"{entries:,}",
                size(best["bytes"]),
                elapsed(first["seconds"]),
                elapsed(best["seconds"]),
                floor,
                elapsed(best["server CPU"]),
                elapsed(best["nodes' CPU"]),
                f"{peak} MiB",
            ]
        )
    head = "nodes | entries | up and down | first sum | later, at best | floor"
    return _table(f"{head} | CPU: server | all nodes | server's peak memory", rows)


def table_mutants() -> str:
    (said,) = networks("http_sums.py mutants").values()
    names = sorted(said["statuses"].items(), key=lambda each: -each[1])
    first, *_, last = said["resident MiB"]
    statuses = ", ".join(f"{name}: {count:,}" for name, count in names)
    return _table(
        "changed at random | what came back | MiB at the server, first and last",
        [[f"{said['bodies']:,}", statuses, f"{first} to {last}"]],
    )


def table_flare() -> str:
    rows = []
    for said in networks("flare_sums.py").values():
        first, *later = said["sums"]
        best = min(later, key=lambda each: float(each["seconds"]))
        rows.append(
            [
                f"{said['sites']} sites, {said['entries']:,} entries",
                size(best["bytes_up"]),
                elapsed(first["seconds"]),
                elapsed(best["seconds"]),
                elapsed(best["server_cpu"]),
            ]
        )
    return _table("what | all send | first sum | later, at best | CPU of the server", rows)


def table_ranks_cost() -> str:
    (said,) = networks("bench_ranks.py").values()
    rows = []
    for part, found in said.items():
        for name, own in found["beside"].items():
            wall = f"{own['wall']:.2f} ({own['low']:.2f} to {own['high']:.2f})"
            rows.append([f"{part}: {name}", f"{own['ns_beyond_plain']:.1f} ns an entry", wall])
    return _table("what | processor beyond plain | wall, times plain (quartiles)", rows)


def table_one_run() -> str:
    found = json.loads((RESULTS / "one_run.json").read_text())
    rows = [
        [f"{row['guesses']}", *(f"{each:.2f}" for each in row["bounds"]), f"{found['truth']:.2f}"]
        for row in found["rows"]
    ]
    head = f"guesses of {found['canaries']} canaries, {found['runs']} runs"
    return _table(f"{head} | any mechanism | Gaussian noise | the truth", rows)


def table_refuted() -> str:
    found = json.loads((RESULTS / "one_run.json").read_text())
    rows = [
        [f"{100 * float(part):g} %", *(f"{each} of {found['runs']}" for each in counts)]
        for part, counts in found["refuted"].items()
    ]
    return _table("of the noise that it takes | any mechanism | Gaussian noise", rows)


def table_beside_plain() -> str:
    """A later secure round over the plain one that was begun just before it."""
    rows = []
    for found in json.loads((RESULTS / "flower_rounds.json").read_text()):
        pairs = zip(found["rounds"], found["rounds"][1:], strict=False)
        ratios = [
            secure["seconds"] / plain["seconds"]
            for plain, secure in pairs
            if secure["secure"] and not plain["secure"] and secure["round"]
        ]
        if ratios:
            times = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            rows.append([f"{found['nodes']:,}", times, f"{median(ratios):.2f}"])
    return _table("nodes | secure over plain | median", rows)


def networks(name: str) -> dict[str, Any]:
    kept = json.loads((RESULTS / "networks.json").read_text())
    return {command: said for command, said in kept.items() if name in command}


def _some(value: float, shown: Callable[[float], str]) -> str:
    return shown(value) if value else "–"


def _twins(said: dict[str, Any]) -> list[str]:
    return [f"{said[f'{twin}_accuracy']:.3f}" for twin in ("central", "plain", "secure")]


TABLES: dict[str, Callable[[], str]] = {
    "costs": table_costs,
    "clients": table_clients,
    "growth": table_growth,
    "expansion": table_expansion,
    "times": table_times,
    "peers": table_peers,
    "uploads": table_uploads,
    "flower": table_flower,
    "membership": table_membership,
    "audits": table_audits,
    "inversion": table_inversion,
    "squares": table_squares,
    "softmax": table_softmax,
    "hospitals": table_hospitals,
    "ranks": table_ranks,
    "compression": table_compression,
    "speakers": table_speakers,
    "tagger": table_tagger,
    "buffered": table_buffered,
    "engines": table_engines,
    "encryption": table_encryption,
    "http": table_http,
    "mutants": table_mutants,
    "flare": table_flare,
    "ranks_cost": table_ranks_cost,
    "one_run": table_one_run,
    "refuted": table_refuted,
    "beside_plain": table_beside_plain,
    "utility": lambda: utility.table(utility.read(RESULTS / "utility.json")["runs"]),
    "settings": lambda: utility.settings_table(utility.read(RESULTS / "utility.json")),
}


def drawn() -> Iterator[tuple[Path, bytes]]:
    """Every file that docs show, as it should be."""
    for name, draw in PICTURES.items():
        yield RESULTS / name, draw()
    for name in PAGES:
        page = (ROOT / name).read_text("utf-8")
        yield ROOT / name, filled(page).encode()


def filled(page: str) -> str:
    """The page with its tables drawn anew; a ``KeyError`` for one that nobody draws."""

    def fill(found: re.Match[str]) -> str:
        return f"{found[1]}\n{TABLES[found[2]]()}{found[3]}"

    return re.sub(r"(<!-- table: (\w+) -->)\n.*?(<!-- end -->)", fill, page, flags=re.DOTALL)


def _row(point: Cost, *about: object) -> list[str]:
    parts = (point.client_seconds, point.decryptor_seconds, point.server_seconds)
    return [
        point.protocol + ("" if point.whole else " (sampled)"),
        *map(str, about),
        *(elapsed(each) if each else "–" for each in parts),
        size(point.bytes_up),
        size(point.bytes_down),
        f"{point.bytes_per_entry:.3g}",
    ]


def _table(head: str, rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {head} |", "|" + "---|" * (head.count("|") + 1)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def _peer(found: dict[str, Any], module: str, name: str) -> float:
    (info,) = (each for key, each in found.items() if key.startswith(f"bench_{module}::"))
    return float(info["bytes"][name])


def _said(test: str) -> str:
    return test.removeprefix("test_").replace("_", " ").replace("[", ", ").removesuffix("]")


def _svg(figure: Figure) -> bytes:
    out = BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def main() -> None:
    """Write, or with --check compare."""
    stale = [
        (path, text) for path, text in drawn() if not path.exists() or path.read_bytes() != text
    ]
    for path, text in stale:
        print(path.relative_to(ROOT))
        if "--check" not in sys.argv:
            path.write_bytes(text)
    sys.exit(1 if stale and "--check" in sys.argv else 0)


if __name__ == "__main__":
    main()
