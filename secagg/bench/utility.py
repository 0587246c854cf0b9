"""``secagg bench utility``: accuracy against epsilon, by mode.

Softmax regression from zeros on digits and Fashion-MNIST. First a search for settings on the
validation part of the training examples, then five seeds of every case on the test examples.
Neither the search nor the choice among its candidates is in any epsilon here.

``central`` is DP-SGD at one party that holds all training examples, noised in every step and priced
like the others by RDP. Under the other modes clients compute what they do in ``secagg train``,
a tenth of them drops out of every round, and their words are summed in the open: the secure
sum is exact, so its result is the same. No ledger runs along. Every epsilon is the plan's: the
noise is calibrated for all rounds at the fewest survivors whose sum is opened.

A sweep of your own (``own``) takes modes, epsilons, numbers of clients and data of your choice
with the settings that you give, and searches nothing.

The file: {"search": [runs], "chosen": [settings], "runs": [runs], "common": [settings that are
not searched, by data set]}. ``--quick`` searches nothing and takes ``QUICK``.
"""

import itertools
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from io import BytesIO
from operator import itemgetter
from pathlib import Path
from statistics import fmean
from typing import Any, Final, TypeAlias

import torch

from dp.accounting.calibrate import noise_multiplier
from dp.accounting.events import PoissonSampling
from dp.sgd import LocalDpSgd
from protocols.entropy import system
from protocols.errors import TooFewSurvivors
from secagg.errors import InputError
from secagg.files import write_atomically
from secagg.rounds.aggregation import Plain, run_protocol
from secagg.training.data import Federation, federate, simulated_dropouts
from secagg.training.loop import SEED_SIZE
from secagg.training.modes import mode
from secagg.training.settings import TrainingConfig, noise_and_unit
from secagg.training.tasks import SOFTMAX, Task, cross_entropy, named_task, softmax
from secagg.training.tasks import measure as measured
from secagg.vectors.vector import flatten, unflatten

Known: TypeAlias = dict[str, list[dict[str, Any]]]

EPSILONS: Final = (1.0, 2.0, 4.0, 8.0)
SEEDS: Final = (0, 1, 2, 3, 4)
SEARCH_SEEDS: Final = (100, 101)
FEW_CLIENTS: Final = "client-20"  # ``client`` among as few clients as the other modes have
MODES: Final = ("central", "distributed", "local", "client", FEW_CLIENTS, "none")
PROCESSES: Final = 2
TICKS: Final = (0.1, 0.2, 0.4, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)  # of accuracy

# Settings are searched at the epsilon on the right, and used at that on the left.
SEARCHED_AT: Final = {1.0: 1.0, 2.0: 1.0, 4.0: 4.0, 8.0: 4.0}

OWN_MODES: Final = ("central", "distributed", "local", "client", "none")  # of a sweep of one's own
OWN_DELTA: Final = 1e-5  # of data of one's own, where none is given

# By data set: what a run has where its candidate does not say otherwise. delta is below one over
# the number of units.
_ALL: dict[str, Any] = {"clients": 20, "clip": 0.25, "local_steps": 1, "bits": 24}
COMMON = {
    "digits": _ALL | {"delta": 1e-4, "sampling_rate": 1.0},
    "fashion-mnist": _ALL | {"delta": 1e-5, "sampling_rate": 0.05},
}
# A client hides among the clients, so there are as many as the data or the settings allow.
CLIENTS = {"digits": 500, "fashion-mnist": 1000}
_CLIENTS = {name: settings["clients"] for name, settings in COMMON.items()}


def _grid(rounds: Sequence[int], rates: Sequence[float], **fixed: Any) -> list[dict[str, Any]]:
    pairs = itertools.product(rounds, rates)
    return [{"rounds": each, "learning_rate": rate} | fixed for each, rate in pairs]


CANDIDATES: dict[str, dict[str, list[dict[str, Any]]]] = {
    "digits": {
        "central": _grid([10, 30, 100], [8.0, 16.0, 32.0, 64.0]),
        "distributed": _grid([10, 30, 100], [8.0, 16.0, 32.0, 64.0]),
        "local": _grid([5, 10, 40], [4.0, 8.0, 16.0, 32.0]),
        "client": _grid([3, 10], [1.0, 4.0], local_steps=2, clip=1.0),
        FEW_CLIENTS: _grid([3, 10], [1.0], local_steps=2, clip=1.0),
        "none": _grid([100], [1.0, 4.0], local_steps=2),
    },
    "fashion-mnist": {
        "central": _grid([100], [32.0, 64.0]),
        "distributed": _grid([100], [32.0, 64.0]),
        "local": _grid([50, 100], [16.0, 64.0]),
        "client": _grid([3, 8], [4.0], local_steps=2, clip=4.0, sampling_rate=1.0),
        FEW_CLIENTS: _grid([3, 8], [4.0], local_steps=2, clip=4.0, sampling_rate=1.0),
        "none": _grid([100], [0.5, 1.0], local_steps=5),
    },
}

# What the search chose for digits at epsilon 4, where the quick sweep is not far from it.
QUICK: Final[dict[str, dict[str, Any]]] = {
    "central": {"rounds": 30, "learning_rate": 64.0},
    "distributed": {"rounds": 30, "learning_rate": 64.0},
    "local": {"rounds": 40, "learning_rate": 8.0},
    "client": {"rounds": 10, "learning_rate": 1.0, "local_steps": 2, "clip": 1.0},
    FEW_CLIENTS: {"rounds": 10, "learning_rate": 1.0, "local_steps": 2, "clip": 1.0},
    "none": {"rounds": 100, "learning_rate": 4.0, "local_steps": 2},
}
QUICK_EPSILONS: Final = (2.0, 8.0)
QUICK_SEEDS: Final = (0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One run. ``epsilon`` is None without privacy; ``settings`` are those of the search."""

    data: str
    mode: str
    epsilon: float | None
    seed: int
    evaluate_on: str
    settings: dict[str, Any]

    @property
    def clients(self) -> int | None:
        """How many, in a sweep of one's own."""
        return _clients(asdict(self))

    @property
    def key(self) -> str:
        """Tells a case from any other, before and after JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    def config(self) -> TrainingConfig:
        """Settings of ``secagg train``; ``central`` leaves noise and unit to their defaults."""
        common = COMMON.get(self.data, _ALL | {"delta": OWN_DELTA, "model": SOFTMAX})
        settings = common | self.settings
        if self.mode == "client" and self.clients is None:
            settings["clients"] = CLIENTS[self.data]
        if self.mode != "central":
            settings |= noise_and_unit("client" if self.mode == FEW_CLIENTS else self.mode)
        if self.epsilon is not None:
            settings["epsilon"] = self.epsilon
        return TrainingConfig(
            data=self.data, seed=self.seed, evaluate_on=self.evaluate_on, **settings
        )


def run(case: Case) -> dict[str, Any]:
    """Train, and evaluate the last model.

    Returns:
      The case, and with it accuracy, noise_multiplier, lost (rounds with too few survivors),
      seconds.
    """
    began = time.perf_counter()
    torch.set_num_threads(1)
    config = case.config()
    task = prepare(config)
    train = central if case.mode == "central" else federated
    noise, lost = train(config, task)
    accuracy, _ = measured(task.model, task.federation.evaluation, task.loss or cross_entropy)
    if accuracy is None:
        raise InputError("the evaluation is no classification, so it has no accuracy")
    return asdict(case) | {
        "accuracy": accuracy,
        "noise_multiplier": noise,
        "lost": lost,
        "seconds": round(time.perf_counter() - began, 2),
    }


def prepare(config: TrainingConfig) -> Task:
    """The model, whose training starts from zeros if it is the built-in one, and the data.

    Raises:
      InputError: a user's own data or model is not as ``secagg train`` takes it.
    """

    def dealt() -> Federation:
        return _federation(config.data, config.clients, config.seed, config.evaluate_on)

    if not config.model:
        federation = dealt()
        inputs = federation.evaluation.features.shape[1]
        return Task(model=softmax(inputs, federation.classes), federation=federation)
    return named_task(config.data, config.model, clients=config.clients, federation=dealt)


def central(config: TrainingConfig, task: Task) -> tuple[float, int]:
    """DP-SGD on all examples at once; returns the noise multiplier."""
    sampling = PoissonSampling(rate=config.sampling_rate)
    noise = noise_multiplier(
        epsilon=config.epsilon, delta=config.delta, sampling=sampling, steps=config.rounds
    )
    parts, model = task.federation.clients, task.model
    party = LocalDpSgd(
        model,
        torch.cat([torch.as_tensor(part.features) for part in parts]),
        torch.cat([torch.as_tensor(part.labels) for part in parts]),
        task.loss or cross_entropy,
        learning_rate=config.learning_rate,
        clip=config.clip,
        noise_multiplier=noise,
        sampling_rate=config.sampling_rate,
    )
    unflatten(party.run(flatten(model).clone(), config.rounds), model)
    return noise, 0


def federated(config: TrainingConfig, task: Task) -> tuple[float, int]:
    """The rounds of ``secagg train``, summed in the open; returns noise multiplier and losses."""
    model = task.model
    how, lost = mode(config, task.federation, model, loss=task.loss), 0
    protocol = Plain(minimum_survivors=config.minimum_survivors)
    for number in range(1, config.rounds + 1):
        gone = simulated_dropouts(
            config.clients, config.dropout, seed=config.seed, round_number=number
        )
        start, seed = flatten(model).clone(), system(SEED_SIZE)
        inputs = {
            client: lambda client=client, start=start, seed=seed: how.brings(client, start, seed)
            for client in range(config.clients)
        }
        try:
            outcome = run_protocol(protocol, how.layout, inputs, gone, public=bytes(32))
        except TooFewSurvivors:
            lost += 1
            continue
        moved = how.moved(outcome.sums(how.layout), outcome.survivors, seed)
        unflatten(start + moved.to(start.dtype), model)
    return how.noise_multiplier, lost


def searches() -> Iterator[Case]:
    """Every candidate, evaluated on validation examples."""
    for data, by_mode, seed in itertools.product(CANDIDATES, MODES, SEARCH_SEEDS):
        for settings in CANDIDATES[data][by_mode]:
            for epsilon in dict.fromkeys(map(_searched_at, _epsilons(by_mode))):
                yield Case(
                    data=data,
                    mode=by_mode,
                    epsilon=epsilon,
                    seed=seed,
                    evaluate_on="validation",
                    settings=settings,
                )


def chosen(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The candidate of the best mean over the search's seeds, for each data set, mode and epsilon.

    ``validation`` is that mean. A line is left out while one of its candidates was not tried.
    """
    table = []
    for data, by_mode in itertools.product(CANDIDATES, MODES):
        for epsilon in _epsilons(by_mode):
            tried = []
            for settings in CANDIDATES[data][by_mode]:
                seen = _accuracies(found, data, by_mode, _searched_at(epsilon), settings)
                if len(seen) == len(SEARCH_SEEDS):
                    tried.append((fmean(seen), settings))
            if len(tried) == len(CANDIDATES[data][by_mode]):
                mean, settings = max(tried, key=itemgetter(0))
                line = {"data": data, "mode": by_mode, "epsilon": epsilon, "settings": settings}
                table.append(line | {"validation": mean})
    return table


def quick() -> list[dict[str, Any]]:
    """Like ``chosen``, of digits at few epsilons, without a search."""
    return [
        {"data": "digits", "mode": by_mode, "epsilon": epsilon, "settings": settings}
        for by_mode, settings in QUICK.items()
        for epsilon in (QUICK_EPSILONS if by_mode != "none" else (None,))
    ]


def sweep(table: Sequence[dict[str, Any]], seeds: Sequence[int] = SEEDS) -> Iterator[Case]:
    """Every line of ``chosen`` on every seed, evaluated on test examples."""
    for seed, row in itertools.product(seeds, table):
        line = {name: value for name, value in row.items() if name != "validation"}
        yield Case(seed=seed, evaluate_on="test", **line)


def own(
    *,
    data: str,
    modes: Sequence[str],
    epsilons: Sequence[float],
    clients: Sequence[int],
    seeds: int,
    settings: dict[str, Any],
) -> list[Case]:
    """Every combination, each with ``settings`` over those of the quick sweep.

    Raises:
      InputError: a case cannot be run, or the data is not as it must be.
    """
    if unknown := [each for each in modes if each not in OWN_MODES]:
        raise InputError(f"unknown mode {unknown[0]!r}; known: {', '.join(OWN_MODES)}")
    if ":" in data:
        for name in ("rounds", "learning_rate", "clip"):
            if name not in settings:
                option = name.replace("_", "-")
                raise InputError(f"data of your own needs --{option}: no default is right for all")
    cases = [
        Case(
            data=data,
            mode=by_mode,
            epsilon=epsilon,
            seed=seed,
            evaluate_on="test",
            settings=QUICK[by_mode] | {"clients": count} | settings,
        )
        for seed, count, by_mode in itertools.product(range(seeds), clients, modes)
        for epsilon in (epsilons if by_mode != "none" else (None,))
    ]
    for count, checked in {case.clients: case.config() for case in cases}.items():
        found = len(prepare(checked).federation.clients)
        if found != count:
            raise InputError(f"--data {data} has {found} clients, not {count}; set --clients")
    return cases


def check_own(known: Known, cases: Sequence[Case]) -> None:
    """Refuse a file that holds runs of the same line in the table under other settings."""
    for run, case in itertools.product(known["runs"], cases):
        line = (run["data"], run["mode"], run["epsilon"], _clients(run))
        alike = line == (case.data, case.mode, case.epsilon, case.clients)
        if alike and run["settings"] != case.settings:
            raise InputError("the file holds runs of other settings; choose another file")


def plot(runs: Sequence[dict[str, Any]]) -> bytes:
    """Mean accuracy against epsilon with the least and most of the seeds, a panel a data set."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "utility"
    shown = _data(runs)
    figure = Figure(figsize=(5.5 * max(1, len(shown)), 5.6), layout="constrained")
    panels = figure.subplots(1, max(1, len(shown)), sharey=True, squeeze=False)[0]
    for axes, data in zip(panels, shown, strict=False):
        epsilons = _epsilons_of(runs, data)
        for place, (by_mode, count) in enumerate(_rows(runs, data)):
            if by_mode == "none":
                if seen := _accuracies(runs, data, by_mode, None, clients=count):
                    axes.axhline(fmean(seen), color="0.4", linestyle=":", label="no privacy")
                continue
            means, below, above, xs = [], [], [], []
            for epsilon in epsilons:
                if seen := _accuracies(runs, data, by_mode, epsilon, clients=count):
                    xs.append(epsilon * 2 ** (0.04 * (place - 2)))  # so that bars do not overlap
                    means.append(fmean(seen))
                    below.append(fmean(seen) - min(seen))
                    above.append(max(seen) - fmean(seen))
            if not xs:
                continue
            hides = by_mode in ("client", FEW_CLIENTS)
            clients = count or (CLIENTS if by_mode == "client" else _CLIENTS)[data]
            axes.errorbar(
                xs,
                means,
                yerr=[below, above],
                color=f"C{place}",
                marker="os^Dv"[place % 5],
                linestyle="--" if hides else "-",
                capsize=3,
                label="central: one trusted party"
                if by_mode == "central"
                else f"client: hides a client of {clients:,}"
                if hides
                else f"{by_mode}: {clients} clients",
            )
        axes.set_yscale("logit")  # few points of accuracy near the top, many at the bottom
        axes.set_yticks(TICKS, [f"{tick:g}" for tick in TICKS])
        axes.set_yticks([], minor=True)
        axes.set_xscale("log", base=2)
        axes.set_xticks(epsilons, [f"{epsilon:g}" for epsilon in epsilons])
        axes.set(
            xlabel=f"epsilon at delta {_delta(runs, data):g}", ylabel="test accuracy", title=data
        )
        axes.grid(visible=True, alpha=0.3)
        axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2)
    figure.supxlabel(
        f"mean of {len({run['seed'] for run in runs})} seeds; bars: least and most of them. "
        "Solid lines hide an example, dashed ones a whole client.",
        fontsize="small",
    )
    out = BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def table(runs: Sequence[dict[str, Any]]) -> str:
    """Markdown: mean accuracy (least to most) by data set and mode, a column an epsilon."""
    epsilons = _epsilons_of(runs)
    head = " | ".join(f"{epsilon:g}" for epsilon in epsilons)
    lines = [f"| data | mode | {head} |", "|---|---|" + "---|" * len(epsilons)]
    seeds = len({run["seed"] for run in runs})
    every = [(data, *row) for data in _data(runs) for row in _rows(runs, data)]
    for data, by_mode, count in every:
        cells = []
        for epsilon in epsilons:
            at = None if by_mode == "none" else epsilon
            seen = _accuracies(runs, data, by_mode, at, clients=count)
            cells.append(f"{fmean(seen):.3f} ({min(seen):.3f} to {max(seen):.3f})" if seen else "–")
            if 0 < len(seen) < seeds:
                cells[-1] += f", {len(seen)} of {seeds} seeds"
        lines.append(f"| {data} | {_named(by_mode, count)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def settings_table(known: Known) -> str:
    """Markdown: the settings that were used, the noise they took, and why they were chosen."""
    lines = ["| data | mode | epsilon | rounds | learning rate | noise | validation |"]
    lines.append("|---|---|---|---|---|---|---|")
    for row in known["chosen"]:
        like = {name: value for name, value in row.items() if name != "validation"}
        at = "–" if row["epsilon"] is None else f"{row['epsilon']:g}"
        noises = {run["noise_multiplier"] for run in known["runs"] if like.items() <= run.items()}
        judged = f"{row['validation']:.3f}" if "validation" in row else "–"
        lines.append(
            f"| {row['data']} | {_named(row['mode'], _clients(row))} | {at} "
            f"| {row['settings']['rounds']} | {row['settings']['learning_rate']:g} "
            f"| {', '.join(f'{noise:.3f}' for noise in sorted(noises))} | {judged} |"
        )
    return "\n".join(lines) + "\n"


def measure(
    known: Known, save: Callable[[Known], None], *, few: bool = False
) -> Iterator[tuple[str, int, int]]:
    """Run what ``known`` lacks and put it there; what is done, how much of how much.

    Args:
      save: called after every run.
      few: the quick sweep.
    """
    if few:
        known["chosen"] = quick()
    else:
        yield from finish("search", list(searches()), known, save)
        known["chosen"] = chosen(known["search"])
    seeds = QUICK_SEEDS if few else SEEDS
    yield from finish("runs", list(sweep(known["chosen"], seeds)), known, save)
    known["common"] = [
        {"data": data, "clients under client": CLIENTS[data]} | COMMON[data] for data in COMMON
    ]
    save(known)


def measure_own(
    known: Known, save: Callable[[Known], None], cases: list[Case]
) -> Iterator[tuple[str, int, int]]:
    """Run those of ``cases`` that ``known`` lacks; what else it holds stays."""
    for case in cases:
        row = {name: getattr(case, name) for name in ("data", "mode", "epsilon", "settings")}
        if row not in known["chosen"]:
            known["chosen"].append(row)
    yield from finish("runs", cases, known, save, keep=True)


def finish(
    name: str,
    cases: list[Case],
    known: Known,
    save: Callable[[Known], None],
    *,
    keep: bool = False,
) -> Iterator[tuple[str, int, int]]:
    """Run what ``known[name]`` lacks, and save run by run.

    ``keep`` what no case asks for; it is dropped otherwise.
    """
    wanted = {case.key for case in cases}
    known[name] = [each for each in known[name] if keep or _case(each).key in wanted]
    done = {_case(each).key for each in known[name]} & wanted
    count = len(done)
    yield name, count, len(cases)
    left = [case for case in cases if case.key not in done]
    if not left:
        return
    os.environ["OMP_NUM_THREADS"] = "1"  # the pool's processes, not threads, fill the cores
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, mp_context=context) as pool:
        waiting = [pool.submit(run, case) for case in left]
        try:
            for each in as_completed(waiting):
                known[name].append(each.result())
                save(known)
                count += 1
                yield name, count, len(cases)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def empty() -> Known:
    """Nothing known."""
    return {"search": [], "chosen": [], "runs": [], "common": []}


def keys(known: Known) -> set[str]:
    """Every run of a file, that of a search too, by what tells it from any other."""
    return {_case(each).key for name in ("search", "runs") for each in known[name]}


def read(path: Path) -> Known:
    """What ``write`` wrote.

    Raises:
      InputError: the file is none of this command's.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    try:
        known: Known = json.loads(text)
        if known.keys() != empty().keys():
            raise ValueError(f"it holds {sorted(known)}")
        for each in (*known["search"], *known["runs"]):
            _case(each)
            float(each["accuracy"])
    except (AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is no file of `secagg bench utility`: {error!r:.200}") from error
    return known


def write(path: Path, known: Known) -> None:
    """Whole or not at all, a run a line.

    Raises:
      RunError: the file cannot be written.
    """
    lines = {
        name: ",\n".join(f"  {json.dumps(each)}" for each in values)
        for name, values in known.items()
    }
    text = ",\n".join(f' "{name}": [\n{rows}\n ]' for name, rows in lines.items())
    write_atomically(path, f"{{\n{text}\n}}\n".encode())


def _case(each: dict[str, Any]) -> Case:
    return Case(**{item.name: each[item.name] for item in fields(Case)})


def _data(runs: Sequence[dict[str, Any]]) -> list[str]:
    found = dict.fromkeys(run["data"] for run in runs)
    others = (each for each in found if each not in CANDIDATES)
    return [*(each for each in CANDIDATES if each in found), *others]


def _rows(runs: Sequence[dict[str, Any]], data: str) -> list[tuple[str, int | None]]:
    """Mode and number of clients of each line: all modes of a built-in sweep, then one's own."""
    seen = {(run["mode"], _clients(run)) for run in runs if run["data"] == data}
    counts = sorted({count for _, count in seen if count is not None})
    whole = any(count is None for _, count in seen)
    built_in: list[tuple[str, int | None]] = [(each, None) for each in MODES] if whole else []
    return built_in + [row for row in itertools.product(MODES, counts) if row in seen]


def _clients(run: Mapping[str, Any]) -> int | None:
    found: int | None = run["settings"].get("clients")
    return found


def _named(by_mode: str, clients: int | None) -> str:
    return by_mode if clients is None else f"{by_mode}, {clients} clients"


def _delta(runs: Sequence[dict[str, Any]], data: str) -> float:
    given = (run["settings"].get("delta") for run in runs if run["data"] == data)
    stated = next((each for each in given if each is not None), None)
    delta: float = stated or COMMON.get(data, {}).get("delta", OWN_DELTA)
    return delta


def _epsilons_of(runs: Sequence[dict[str, Any]], data: str | None = None) -> list[float]:
    found = {run["epsilon"] for run in runs if data in (None, run["data"])}
    return sorted(epsilon for epsilon in found if epsilon is not None)


def _epsilons(by_mode: str) -> Sequence[float | None]:
    return (None,) if by_mode == "none" else EPSILONS


def _searched_at(epsilon: float | None) -> float | None:
    return None if epsilon is None else SEARCHED_AT[epsilon]


def _accuracies(
    found: Sequence[dict[str, Any]],
    data: str,
    by_mode: str,
    epsilon: float | None,
    settings: dict[str, Any] | None = None,
    *,
    clients: int | None = None,
) -> list[float]:
    like: dict[str, Any] = {"data": data, "mode": by_mode, "epsilon": epsilon}
    if settings is not None:
        like["settings"] = settings
    alike = (each for each in found if like.items() <= each.items())
    return [each["accuracy"] for each in alike if _clients(each) == clients]


def rows(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The runs as lines of a table, a setting a column."""
    return [
        {name: value for name, value in run.items() if name != "settings"} | run["settings"]
        for run in runs
    ]


@lru_cache(maxsize=1)  # cases that follow each other mostly ask for the same
def _federation(data: str, clients: int, seed: int, evaluate_on: str) -> Federation:
    return federate(data, clients=clients, partition="iid", seed=seed, evaluate_on=evaluate_on)
