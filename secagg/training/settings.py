"""The settings of a training run, checked as a whole before anything starts."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, Self, TypeVar, get_type_hints

from protocols.primitives.shamir import majority
from secagg.errors import InputError
from secagg.planning.survivors import likely_survivors
from secagg.rounds.aggregation import PROTOCOL_NAMES
from secagg.training.data import DATASETS, EVALUATION_PARTS, parse_partition
from secagg.vectors.compress import NOTHING, Compress

T = TypeVar("T")

OWN: Final = "own"  # data or model that a program handed in, and no name can find again
WEIGHTINGS = ("examples", "equal")
NOISE = ("distributed", "local", "none")
UNITS = ("example", "client")
# The pairs of noise and unit that are built, each under one name.
MODES: Mapping[str, tuple[str, str]] = {
    "distributed": ("distributed", "example"),
    "client": ("distributed", "client"),
    "local": ("local", "example"),
    "none": ("none", "example"),
}

_BY_MODE: Final[Any] = None  # stands for the value below, until the settings are complete
# Chosen on the validation part of digits' training examples, `--evaluate-on validation`.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "distributed": {"rounds": 40, "local_steps": 1, "clip": 0.25, "learning_rate": 32.0},
    "client": {"rounds": 20, "local_steps": 2, "clip": 1.0, "learning_rate": 4.0},
    "local": {"rounds": 40, "local_steps": 1, "clip": 0.5},  # and ``local_learning_rate``
    "none": {"rounds": 30, "local_steps": 2, "clip": 0.5, "learning_rate": 4.0},
}
_BITS = {
    True: 21,
    False: 16,
}  # noised sums are rounded twice as often; three lanes a word hold them
_OWN_BITS = 24  # of a range that nobody fitted to the model: its step is 10^-7 of it
_LOCAL_RATE = 8.0  # the best at epsilon 8; below, what is best falls as the root of epsilon
_CHOSEN = "  [default: chosen by noise and unit]"


def _setting(default: T, told: str, meaning: str) -> T:
    """A field, with what ``secagg train --help`` says of it and what the report does."""
    return field(default=default, metadata={"help": told, "meaning": meaning})


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """Everything that ``secagg train`` can be told; ``secagg train --help`` says it in words.

    What is not given is chosen by noise and unit, and is there once this is made.

    Raises:
      InputError: a value is out of range, or two contradict each other.
    """

    data: str = _setting(
        "digits",
        "Data set: digits, breast-cancer, fashion-mnist (after make data), or your own as "
        "module:factory, see docs/own-model.md.",
        "the data set",
    )
    model: str = _setting(
        _BY_MODE,
        "Your own model, as module:factory.  [default: softmax regression]",
        "the model",
    )
    clients: int = _setting(20, "Number of clients.", "clients that take part")
    rounds: int = _setting(_BY_MODE, f"Rounds of training.{_CHOSEN}", "rounds of training")
    partition: str = _setting(
        "iid",
        "How examples are dealt out: iid, or dirichlet:ALPHA for clients that differ.",
        "how the examples are dealt out to the clients",
    )
    dropout: float = _setting(
        0.1,
        "Probability that a client drops out of a round, at a random stage.",
        "chance of each client to drop out of a round, at a random stage",
    )
    threshold: int = _setting(
        _BY_MODE,
        "Clients that can open a sum together.  [default: a majority of the clients]",
        "shares that rebuild a secret; fewer survivors give nothing",
    )
    minimum_survivors: int = _setting(
        _BY_MODE,
        "Clients refuse to open a sum of fewer.  [default: the threshold; with distributed "
        "noise, the largest minimum at which at most 5 % of runs lose a round]",
        "clients refuse to help open a sum of fewer",
    )
    uncounted_shares: int = _setting(
        1,
        "Noise shares that may be known or missing, and so count for nothing.",
        "noise shares that may be known or missing, and so count for nothing",
    )
    protocol: str = _setting(
        "bonawitz",
        f"One of: {', '.join(PROTOCOL_NAMES)}. plain hides nothing.",
        "how updates are summed",
    )
    noise: str = _setting(
        "distributed",
        "Where noise is added: distributed (a share by each client, so that the sum has it), "
        "local (by each client, enough alone), none.",
        "where noise is added",
    )
    unit: str = _setting(
        "example",
        "Whom the noise hides: example, or client (needs distributed noise).",
        "whom the noise hides",
    )
    epsilon: float = _setting(
        2.0,
        "Privacy budget of each example, or client, over the whole training.",
        "the budget of each example or client, for the whole run",
    )
    delta: float = _setting(
        1e-4,
        "Probability with which the budget may fail; below one over the number of examples.",
        "chance that the bound of epsilon fails",
    )
    clip: float = _setting(
        _BY_MODE,
        "L2 bound on one example's gradient; with unit client: initial L2 bound on an "
        f"update; of an own model without noise: largest entry of an update.{_CHOSEN}",
        "largest norm that one example's gradient keeps, or at first a client's update",
    )
    bits: int = _setting(
        _BY_MODE,
        f"Bits of a quantised entry; with distributed noise: of a sum.{_CHOSEN}",
        "bits of a quantised entry, or of a noised sum",
    )
    compress: str = _setting(
        str(NOTHING),
        "What is sent of an update, without noise: 1/8 (one entry in eight, drawn anew each "
        "round), rotate (so that few bits lose little), rotate 1/8, none.",
        "what is sent of an update",
    )
    learning_rate: float = _setting(
        _BY_MODE,
        "Step size of the training.  [default: chosen by noise and unit; with local noise by "
        "epsilon too]",
        "step size",
    )
    local_steps: int = _setting(
        _BY_MODE, f"Steps of a client in each round.{_CHOSEN}", "batches a client takes in a round"
    )
    sampling_rate: float = _setting(
        1.0, "Probability that an example is in a batch.", "chance of each example to be in a batch"
    )
    client_sampling_rate: float = _setting(
        1.0,
        "Probability that a client, drawn in secret by itself, contributes its update.",
        "chance of each client, by its own coin, to bring its update",
    )
    weighting: str = _setting(
        _BY_MODE,
        "Whether clients count by their examples or equal.  [default: examples; with unit client "
        "equal]",
        "what a client counts by in the mean",
    )
    seed: int = _setting(
        0,
        "Seed of the partition, the initial model and simulated dropouts; never of keys or noise.",
        "fixes partition and initial model; never keys or noise",
    )
    evaluate_on: str = _setting(
        "test",
        "Examples that accuracy is measured on: test, or validation for choosing settings.",
        "the part of the data that accuracy is measured on",
    )
    purpose: str = _setting(
        _BY_MODE,
        "What the run is for; the ledger and its audit say it.",
        "what the run is for",
    )
    organisation: str = _setting(
        _BY_MODE,
        "Who answers for the run; the ledger and its audit say it.",
        "who answers for the run",
    )
    trainer: str = field(  # no option: objects of a program, described
        default=_BY_MODE, metadata={"meaning": "what a program gave beside these settings"}
    )

    def __post_init__(self) -> None:
        kinds = self.kinds()
        for item in fields(self):
            self._check_kind(item.name, kinds[item.name], optional=item.default is _BY_MODE)
        for name in ("model", "weighting"):
            if getattr(self, name) == "":
                raise InputError(f"{name} is empty; leave it out")
        if self.data != OWN and ":" not in self.data:
            _one_of("data", self.data, DATASETS)
        elif not self.model:
            raise InputError(f"data {self.data} needs a model of its own; give model too")
        _one_of("protocol", self.protocol, PROTOCOL_NAMES)
        _one_of("evaluate_on", self.evaluate_on, EVALUATION_PARTS)
        _one_of("noise", self.noise, NOISE)
        _one_of("unit", self.unit, UNITS)
        if (self.noise, self.unit) not in MODES.values():
            hides = "nobody" if self.noise == "none" else "one example"
            raise InputError(
                f"unit {self.unit}: noise {self.noise} hides {hides}; take noise distributed, or "
                "leave unit out"
            )
        parse_partition(self.partition)
        _between("clients", self.clients, 2, 1000)
        _between("dropout", self.dropout, 0.0, 1.0)
        _between("epsilon", self.epsilon, 1e-3, 1e3)
        if self.model:
            self._fill_own()
        for name, value in _DEFAULTS[self.mode].items():
            self._fill(name, value)
        self._fill("learning_rate", local_learning_rate(self.epsilon))
        _between("rounds", self.rounds, 1, 100_000)
        self._fill("bits", _BITS[self.noise == "distributed"])
        self._fill("threshold", majority(self.clients))
        _between("threshold", self.threshold, 2, self.clients)
        likely = self.threshold  # without noise there is nothing to weigh
        if self.noise == "distributed":
            likely = likely_survivors(
                self.clients, self.dropout, rounds=self.rounds, minimum=self.threshold
            )
        self._fill("minimum_survivors", likely)
        _between("minimum_survivors", self.minimum_survivors, 2, self.clients)
        _between("delta", self.delta, 1e-15, 0.5)
        _between("clip", self.clip, 1e-6, 1e6)
        _between("bits", self.bits, 2 if self.noise == "none" else 4, 32)
        _between("local_steps", self.local_steps, 1, 1000)
        _between("sampling_rate", self.sampling_rate, 1e-6, 1.0)
        _between("client_sampling_rate", self.client_sampling_rate, 1e-6, 1.0)
        _between("seed", self.seed, 0, 2**63 - 1)
        _between("learning_rate", self.learning_rate, 1e-9, 1e6)
        if 2 * self.threshold <= self.clients:
            raise InputError(
                f"threshold {self.threshold} is no majority of {self.clients} clients; "
                f"every client would refuse it, set at least {majority(self.clients)}"
            )
        # Fewer shares open nothing, whatever the minimum.
        object.__setattr__(self, "minimum_survivors", max(self.minimum_survivors, self.threshold))
        self._check_mode()

    def _fill_own(self) -> None:
        """Defaults that hold for any model; the others were chosen for the built-in one."""
        needed = ["rounds", "learning_rate", *(["clip"] if self.noise != "none" else [])]
        for name in needed:
            if getattr(self, name) is None:
                raise InputError(f"an own model needs {name}: no default is right for every model")
        self._fill("clip", 1.0)
        self._fill("local_steps", 1)
        if self.noise != "distributed":
            self._fill("bits", _OWN_BITS)

    def _check_mode(self) -> None:
        """Refuse what this noise or this unit cannot do."""
        if self.noise == "distributed":
            if not 1 <= self.uncounted_shares < self.minimum_survivors:
                raise InputError(
                    f"uncounted_shares {self.uncounted_shares} is outside "
                    f"[1, {self.minimum_survivors - 1}]: the shares of minimum_survivors "
                    f"{self.minimum_survivors} less those must make up the noise, and whoever "
                    "sees the result knows its own"
                )
            if self.protocol == "plain":
                raise InputError(
                    "protocol plain shows every client's vector, and its one share of noise hides "
                    "little; take bonawitz, or noise local"
                )
        elif self.uncounted_shares != 1:
            raise InputError(
                f"uncounted_shares {self.uncounted_shares}: only distributed noise is made of "
                "shares"
            )
        if self.mode == "distributed" and self.local_steps != 1:
            raise InputError(
                f"local_steps {self.local_steps}: distributed noise that hides an example is added "
                "at every step; leave it 1"
            )
        compress = Compress.parse(self.compress)
        if compress != NOTHING and self.noise != "none":
            raise InputError(
                f"compress {self.compress}: the noise's price is of whole vectors; leave it out, "
                "or take noise none"
            )
        if compress.rotate and not self.model:
            raise InputError(
                f"compress {self.compress}: the built-in model's range is of entries before a "
                "rotation; take 1/8 or so, or a model of your own"
            )
        for name in ("purpose", "organisation"):
            said = getattr(self, name)
            if said is not None and not (said.strip() and said.isprintable() and len(said) <= 200):
                raise InputError(f"{name} {said!r:.80} must be a line of 1 to 200 characters")
        if self.weighting:
            _one_of("weighting", self.weighting, WEIGHTINGS)
        only = {"distributed": "examples", "client": "equal"}.get(self.mode)
        if self.weighting and only not in (None, self.weighting):
            raise InputError(
                f"weighting {self.weighting}: with distributed noise and unit {self.unit} it is "
                f"{only}"
            )
        if self.unit != "client" and self.client_sampling_rate != 1.0:
            raise InputError(
                f"client_sampling_rate {self.client_sampling_rate}: it changes the price with "
                "unit client alone"
            )

    @property
    def weighs_examples(self) -> bool:
        """Whether a client counts by its number of examples."""
        return (self.weighting or ("equal" if self.unit == "client" else "examples")) == "examples"

    @property
    def mode(self) -> str:
        """The name of noise and unit together, in ``MODES``."""
        return next(name for name, pair in MODES.items() if pair == (self.noise, self.unit))

    def _fill(self, name: str, value: Any) -> None:
        if getattr(self, name) is None:
            object.__setattr__(self, name, value)

    @classmethod
    def kinds(cls) -> dict[str, type]:
        """Each setting's type: int, float or str."""
        return get_type_hints(cls)

    def _check_kind(self, name: str, kind: type, *, optional: bool) -> None:
        value = getattr(self, name)
        if isinstance(value, int) and kind is float and not isinstance(value, bool):
            object.__setattr__(self, name, float(value))
        elif not isinstance(value, kind) or isinstance(value, bool):
            if value is None and optional:
                return
            raise InputError(f"{name} is {value!r}, expected {kind.__name__}")

    @classmethod
    def parse(cls, settings: Mapping[str, Any]) -> Self:
        """Make the settings of a TOML table or a command line; an unknown name is an error."""
        known = {item.name for item in fields(cls)}
        if unknown := sorted(settings.keys() - known):
            raise InputError(f"unknown setting {unknown[0]!r}; known: {', '.join(sorted(known))}")
        return cls(**settings)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def local_learning_rate(epsilon: float) -> float:
    """The step size of ``local`` by its budget: the more noise, the smaller the steps."""
    return round(min(_LOCAL_RATE, math.sqrt(_LOCAL_RATE * epsilon)), 2)


def noise_and_unit(mode: str) -> dict[str, Any]:
    """The two settings that ``mode``, a name in ``MODES``, stands for.

    Raises:
      InputError: no such mode.
    """
    _one_of("mode", mode, MODES)
    noise, unit = MODES[mode]
    return {"noise": noise, "unit": unit}


def _between(name: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise InputError(f"{name} {value} is outside [{low}, {high}]")


def _one_of(name: str, value: str, known: Mapping[str, object] | tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"unknown {name} {value!r}; known: {', '.join(known)}")
