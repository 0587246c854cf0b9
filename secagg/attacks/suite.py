"""All attacks of this package carried out in one go: what ``secagg bench attack`` runs.

Everything is done in this process: on digits, or on a training of the user's own
(``secagg.attacks.own``). One mechanism is broken on purpose, to see whether the audit finds it.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeAlias, get_args

from threadpoolctl import threadpool_limits

from dp.empirical import LowerBound
from dp.ledger import Budget
from secagg.attacks.canaries import EmpiricalAudit, Mechanism, client_cosines, one_run
from secagg.attacks.fields import Fields, shown
from secagg.attacks.inversion import Inversion, Seen, invert_gradients
from secagg.attacks.membership import ATTACKS, Membership, Models, Tell, membership
from secagg.audit.evidence import SCHEMA, evidence, load
from secagg.errors import InputError

if TYPE_CHECKING:
    from secagg.attacks.own import Own

Part: TypeAlias = Literal["membership", "audit", "canaries", "inversion"]
Result: TypeAlias = Membership | EmpiricalAudit | Inversion

PARTS: Final[tuple[Part, ...]] = ("membership", "audit", "canaries", "inversion")
MIN_UNITS: Final = 1000  # examples, or canaries, of what is attacked: delta stays below one over it
POOL, SMALL_POOL = 1000, 100  # examples; a model overfits the small one
BROKEN: Final = 2.0**-10  # of the noise, as good as none; less would pass the sampler by
MAX_RESULTS: Final = 100  # results of a kind in a file that is read
_PACKAGES: Final = ("secagg", "numpy", "torch", "opacus")  # whose versions a file names
RUNS: Final = 5  # of the estimate, to see how it varies; quick: one
# Models attacked and models of the attacker, by mode and pool: quick in about 20 s, whole in a
# few minutes on one core (measured).
_MIDDLE: Final = (("none", POOL), ("local", POOL), ("distributed", POOL))
_QUICK: Final[Mapping[tuple[str, int], Models]] = {
    ("none", SMALL_POOL): Models(8, 64),
    **dict.fromkeys(_MIDDLE, Models(2, 32)),
    ("client", POOL): Models(10, 32),
}
_WHOLE: Final[Mapping[tuple[str, int], Models]] = {
    ("none", SMALL_POOL): Models(64, 256),
    **dict.fromkeys(_MIDDLE, Models(32, 128)),
    ("client", POOL): Models(100, 128),
}
OWN_PARTS: Final[tuple[Part, ...]] = ("membership", "audit", "canaries")  # of one's own
_OWN_QUICK: Final = Models(targets=2, shadows=32)
_OWN_WHOLE: Final = Models(targets=16, shadows=128)
_OF_PLAN: Final = ("epsilon", "delta", "seed", "quick", "parts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One attack: what it is called while it runs, how to run it, and what it is about."""

    part: Part
    name: str
    run: Callable[[Tell], tuple[Result, ...]]
    about: tuple[object, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackSuite:
    """What is attacked, and how hard.

    Attributes:
      epsilon, delta: that every private mechanism is calibrated to, each for all of its rounds.
      seed: of data and models; keys, noise and coins are the system's.
      quick: fewer models, so that curves are coarse and intervals wide.
      parts: of ``PARTS``.
      own: a training of the user's own to attack; digits without it.

    Raises:
      InputError: an attribute is out of range.
    """

    epsilon: float = 2.0
    delta: float = 1e-5
    seed: int = 0
    quick: bool = False
    parts: tuple[Part, ...] = PARTS
    own: "Own | None" = None

    def __post_init__(self) -> None:
        if not 1e-3 <= self.epsilon <= 1e3:
            raise InputError(f"epsilon {self.epsilon} is outside [0.001, 1000]")
        if not 1e-15 <= self.delta < 1 / MIN_UNITS:
            raise InputError(
                f"delta {self.delta} is outside [1e-15, {1 / MIN_UNITS:g}), one over the units"
            )
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed {self.seed} is outside [0, 2^63)")
        if not self.parts or not set(self.parts) <= set(PARTS):
            raise InputError(f"parts {self.parts} must be some of {', '.join(PARTS)}")
        if self.own is not None and not set(self.parts) <= set(OWN_PARTS):
            raise InputError(
                f"of data of your own the parts are {', '.join(OWN_PARTS)}; inversion looks for "
                "pictures of digits"
            )

    def jobs(self) -> Iterator[Job]:
        """The jobs in the order of ``PARTS``."""
        budget = Budget(epsilon=self.epsilon, delta=self.delta)
        if self.own is not None:
            yield from self._own_jobs(self.own, budget)
        elif "membership" in self.parts:
            for (mode, pool), models in (_QUICK if self.quick else _WHOLE).items():
                yield Job(
                    part="membership",
                    name=f"membership, {mode}, pool of {pool:,}",
                    run=_telling(
                        partial(membership, mode, budget, pool=pool, models=models, seed=self.seed)
                    ),
                    about=(mode, pool),
                )
        if "audit" in self.parts:
            both: tuple[Mechanism, ...] = ("local", "distributed")
            for share, words in ((1.0, ""), (BROKEN, ", broken")):
                for mechanism in both:
                    yield Job(
                        part="audit",
                        name=f"audit, {mechanism}{words}",
                        run=_silent(partial(_guessed, mechanism, budget, share)),
                        about=(mechanism, share),
                    )
        if "canaries" in self.parts and (self.own is None or "client" in self.own.modes):
            for number in range(1 if self.quick else RUNS):
                run = (
                    partial(client_cosines, budget, seed=self.seed + number)
                    if self.own is None
                    else _own_canaries(self.own, budget)
                )
                yield Job(
                    part="canaries",
                    name="canary clients",
                    run=_silent(_alone(run)),
                    about=(number,),
                )
        if "inversion" in self.parts:
            for model in ("softmax", "mlp"):
                yield Job(
                    part="inversion",
                    name=f"inversion, {model}",
                    run=_silent(partial(invert_gradients, model, budget, alone=20, seed=self.seed)),
                    about=(model,),
                )

    def _own_jobs(self, own: "Own", budget: Budget) -> Iterator[Job]:
        from secagg.attacks.own import own_membership

        if "membership" not in self.parts:
            return
        for mode in own.modes:
            pool = own.pool(mode)
            models = _OWN_QUICK if self.quick else _OWN_WHOLE
            yield Job(
                part="membership",
                name=f"membership, {mode}, pool of {pool:,}",
                run=partial(own_membership, own, mode, budget, models),
                about=(mode, pool),
            )

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON."""
        plan = shown(self, _OF_PLAN, parts=list(self.parts))
        return plan if self.own is None else plan | {"own": self.own.as_dict()}

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """The one whose ``as_dict()`` is ``data``; ``InputError`` if there is none."""
        mine = type(data) is dict and "own" in data
        held = Fields(data, (*_OF_PLAN, "own") if mine else _OF_PLAN)
        parts = held.items("parts", 1, len(PARTS))
        if [each for each in PARTS if each in parts] != parts:
            raise InputError(f"parts {parts!r:.80} must be some of {', '.join(PARTS)}")
        seed = held.whole("seed", 0, 2**63 - 1)
        return cls(
            own=_own(data["own"], seed) if mine else None,
            epsilon=held.number("epsilon", 1e-3, 1e3),
            delta=held.number("delta", 0, 1),
            seed=seed,
            quick=held.flag("quick"),
            parts=tuple(parts),
        )


def _versions() -> dict[str, str]:
    return {name: version(name) for name in _PACKAGES}


@dataclass(slots=True, kw_only=True)
class Found:
    """What a plan's jobs gave, as they are carried out.

    Attributes:
      seconds: by part, wall time on this machine with whatever else it did.
      versions: of what carried them out.
      tell: is told how a long job goes on.
    """

    plan: AttackSuite
    results: list[Result] = field(default_factory=list)
    seconds: dict[Part, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=_versions)
    tell: Tell = lambda done, of: None

    @property
    def left(self) -> tuple[Job, ...]:
        """The plan's jobs that have given nothing yet."""
        held: set[tuple[object, ...]] = {("canaries", at) for at in range(len(self.canaries))}
        held |= {("membership", group[0].mode, group[0].pool) for group in self.membership}
        held |= {("audit", one.audited, one.noise_share) for one in self.audits}
        held |= {("inversion", views[0].model) for views in self.inversions}
        return tuple(job for job in self.plan.jobs() if (job.part, *job.about) not in held)

    def carry_out(self, job: Job) -> None:
        """Run one and keep what it gives; on one thread, or on a busy machine 10 times slower."""
        began = time.perf_counter()
        with threadpool_limits(limits=1):
            self.results += job.run(self.tell)
        spent = time.perf_counter() - began
        # As coarse as the file has them: printed again they are the same.
        self.seconds[job.part] = round(self.seconds.get(job.part, 0.0) + spent, 1)

    @property
    def membership(self) -> tuple[tuple[Membership, ...], ...]:
        """Results of one mode and pool together."""
        groups: dict[tuple[str, int], list[Membership]] = {}
        for one in self.results:
            if isinstance(one, Membership):
                groups.setdefault((one.mode, one.pool), []).append(one)
        return tuple(map(tuple, groups.values()))

    @property
    def audits(self) -> tuple[EmpiricalAudit, ...]:
        """Bounds, those of mechanisms that were broken on purpose last."""
        return self._audited(clients=False)

    @property
    def canaries(self) -> tuple[EmpiricalAudit, ...]:
        """Estimates."""
        return self._audited(clients=True)

    def _audited(self, *, clients: bool) -> tuple[EmpiricalAudit, ...]:
        every = (one for one in self.results if isinstance(one, EmpiricalAudit))
        return tuple(one for one in every if (one.audited == "client") is clients)

    @property
    def inversions(self) -> tuple[tuple[Inversion, ...], ...]:
        """Results of one model together."""
        groups: dict[str, list[Inversion]] = {}
        for one in self.results:
            if isinstance(one, Inversion):
                groups.setdefault(one.model, []).append(one)
        return tuple(map(tuple, groups.values()))

    @property
    def refuted(self) -> tuple[str, ...]:
        """Whole mechanisms of which a bound passes what is stated."""
        names = (one.audited for one in self.audits if one.noise_share == 1 and one.refuted)
        return tuple(dict.fromkeys(names))

    def as_dict(self) -> dict[str, Any]:
        """All results as JSON that ``secagg.audit.evidence`` reads.

        ``results`` holds what says something of the library as it is: no mechanism that was
        broken on purpose.
        """
        whole = [one.found for one in (*self.audits, *self.canaries) if one.noise_share == 1]
        return evidence(whole) | {
            "refuted": list(self.refuted),
            "plan": self.plan.as_dict(),
            "seconds": {part: round(self.seconds.get(part, 0.0), 1) for part in self.plan.parts},
            "versions": dict(self.versions),
            "audits": [one.as_dict() for one in (*self.audits, *self.canaries)],
            "inversion": [one.as_dict() for group in self.inversions for one in group],
            "membership": [one.as_dict() for group in self.membership for one in group],
        }

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """What was found, of which ``data`` is the ``as_dict()``; bounds are computed anew.

        Pixels and seconds are as coarse as they were written.

        Raises:
          InputError: it is of another schema or shape, or says what does not follow from it.
        """
        if type(data) is not dict or data.get("schema") != SCHEMA:
            raise InputError(f"this is no JSON object of schema {SCHEMA!r}")
        held = Fields(
            data,
            (
                *("schema", "results", "refuted", "plan", "seconds", "versions"),
                *("audits", "inversion", "membership"),
            ),
        )
        plan = AttackSuite.from_dict(data["plan"])
        spent = Fields(data["seconds"], plan.parts)
        versions = Fields(data["versions"], _PACKAGES)
        if not all(type(each) is str for each in versions.held.values()):
            raise InputError(f"versions are {versions.held!r:.80}, must be strings")
        found = cls(
            plan=plan,
            results=[
                *map(Membership.from_dict, held.items("membership", 0, MAX_RESULTS)),
                *map(EmpiricalAudit.from_dict, held.items("audits", 0, MAX_RESULTS)),
                *map(Inversion.from_dict, held.items("inversion", 0, MAX_RESULTS)),
            ],
            seconds={part: spent.number(part, 0, 1e9) for part in plan.parts},
            versions=dict(versions.held),
        )
        for group in found.membership:
            if tuple(one.attack for one in group) != ATTACKS:
                raise InputError(f"membership, {group[0].mode}: must be {', '.join(ATTACKS)}")
        for views in found.inversions:
            if tuple(one.seen for one in views) != get_args(Seen):
                raise InputError(f"inversion, {views[0].model}: must be {get_args(Seen)}")
            if not views[0].clients <= views[1].clients == views[2].clients:
                raise InputError(f"inversion, {views[0].model}: clients of its views differ")
        held.follows(found.as_dict())
        return found

    @classmethod
    def read(cls, path: Path) -> Self:
        """What was found, from the file of ``secagg bench attack``.

        Raises:
          InputError: it cannot be read, or ``from_dict`` refuses it.
        """
        data = load(path)
        try:
            return cls.from_dict(data)
        except InputError as error:
            raise InputError(f"{path} is no file of `secagg bench attack`: {error}") from error


def _guessed(mechanism: Mechanism, budget: Budget, share: float) -> tuple[Result, ...]:
    """The bounds of one run: a second where the mechanism claims a Gaussian curve."""
    audit = one_run(mechanism, budget, noise_share=share)
    return (audit, audit.as_gaussian()) if mechanism == "local" else (audit,)


def rows(found: Found) -> list[dict[str, Any]]:
    """The numbers as lines of a table, one a rate, a bound or a number of pictures."""
    lines: list[dict[str, Any]] = []
    for one in (one for group in found.membership for one in group):
        about = {"part": "membership", "of": one.mode, "pool": one.pool, "how": one.attack}
        lines.append(about | {"measure": "area under the curve", "value": one.auc})
        for rate in one.rates:
            at = f"true positive rate at {rate.false_positive_rate:g}"
            within = {"low": rate.low, "high": rate.high}
            lines.append(about | {"measure": at, "value": rate.true_positive_rate} | within)
    for audited in (*found.audits, *found.canaries):
        bounded = isinstance(audited.found, LowerBound)
        lines.append(
            {
                "part": "audit" if bounded else "canaries",
                "of": audited.audited,
                "how": audited.found.as_dict()["method"],
                "noise_share": audited.noise_share,
                "measure": "epsilon at least" if bounded else "epsilon about",
                "value": audited.found.epsilon,
                "stated": audited.stated,
                "refuted": audited.refuted,
            }
        )
    for view in (view for views in found.inversions for view in views):
        about = {"part": "inversion", "of": view.model, "how": view.seen}
        lines.append(about | {"measure": "pictures", "value": view.recovered})
    return lines


def _alone(run: Callable[[], EmpiricalAudit]) -> Callable[[], tuple[Result, ...]]:
    return lambda: (run(),)


def _telling(run: Callable[..., tuple[Result, ...]]) -> Callable[[Tell], tuple[Result, ...]]:
    return lambda tell: run(tell=tell)


def _silent(run: Callable[[], tuple[Result, ...]]) -> Callable[[Tell], tuple[Result, ...]]:
    """What takes too short a time to tell how it goes on."""
    return lambda tell: run()


def _own_canaries(own: "Own", budget: Budget) -> Callable[[], EmpiricalAudit]:
    from secagg.attacks.own import own_canaries

    return partial(own_canaries, own, budget)


def _own(data: Any, seed: int) -> "Own":
    from secagg.attacks.own import Own

    return Own.from_dict(data, seed=seed)
