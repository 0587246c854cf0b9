"""What a training run states in its ledger about itself, for ``secagg audit``."""

from dp.ledger.description import SystemDescription
from dp.noise.mechanisms import DistributedNoise
from secagg.rounds.ckks import CKKS, FLOODING
from secagg.training.settings import TrainingConfig

_SIZES = "how many examples each client has and at which rate it samples them"
_PUBLIC = (
    "who took part in a round and who was in its sum",
    "the settings of the run, and the data set that the model is evaluated on",
)
_NOISE = "AES-128 in counter mode, for noise and coins"
_DISCRETE = "int64 after rounding: noise and sums are exact integers"


def statement(
    config: TrainingConfig,
    *,
    units: int,
    sampler_error: float,
    draws: int,
    mechanism: DistributedNoise | None = None,
    uneven: bool = False,
) -> SystemDescription:
    """The description of a private run; with the ``mechanism`` for distributed noise.

    ``draws`` of noise a step, each within ``sampler_error`` of its law; ``uneven`` if clients have
    sampling rates of their own, none above that of ``config``.
    """
    return SystemDescription(
        unit_count=units,
        mechanism=_mechanism(config, mechanism),
        sampling=_sampling(config, uneven=uneven),
        trusted=_trusted(config),
        released=_released(config),
        unaccounted=_PUBLIC if config.mode == "client" else (_SIZES, *_PUBLIC),
        scope="every round of this run, for every client that took part in it; no other run",
        randomness=_randomness(config, sampler_error),
        floating_point=_floats(config),
        assumptions=_assumptions(config),
        rounded_sums=config.mode == "distributed",
        sampler_error=sampler_error,
        entries=draws,
        flooding_bits=FLOODING if mechanism and config.protocol in CKKS else None,
    )


def _mechanism(config: TrainingConfig, mechanism: DistributedNoise | None) -> str:
    if mechanism is None:
        return (
            "DP-SGD on each client: gradients clipped an example at a time and rounded to "
            "integers, binned Gaussian noise on each batch's sum"
        )
    clipped = (
        "gradients clipped an example at a time"
        if config.mode == "distributed"
        else "updates clipped to a norm that follows their median"
    )
    return (
        f"Skellam noise in shares on {clipped}, rotated and rounded to integers; the shares "
        f"of any {config.minimum_survivors} survivors, {config.uncounted_shares} of them not "
        "counted, add up to the noise that was reserved"
    )


def _sampling(config: TrainingConfig, *, uneven: bool) -> str:
    if config.mode == "client":
        if config.client_sampling_rate == 1:
            return "none: every client that is there brings its update"
        return (
            "every client takes part and adds its noise, and brings its update by a secret coin "
            f"of its own, of probability {config.client_sampling_rate:g}; nobody sees the coin"
        )
    if config.sampling_rate == 1 and not uneven:
        return "none: every example is in every batch"
    most = f"{'its own, at most ' if uneven else ''}{config.sampling_rate:g}"
    return (
        f"Poisson: every example by a coin of its client, of probability {most}; "
        "exact, from a cipher under system randomness, empty batches included"
    )


def _trusted(config: TrainingConfig) -> tuple[str, ...]:
    own = "each client, with its own examples, its noise and its coins"
    if config.mode == "local":
        return (own,)
    sums = {
        "bonawitz": "the server, to follow the protocol: it may keep and study all that it sees; "
        f"with {config.threshold} clients on its side it opens the others' vectors",
        "ckks": "the server and every client, to follow the protocol and not to work together: "
        "any one client's key opens every vector that the server has",
        "threshold-ckks": "the server and every client, to follow the protocol; with a majority of "
        "the key's holders on its side the server opens every vector",
    }.get(config.protocol, f"protocol {config.protocol}, to show sums alone")
    return (
        own,
        sums,
        f"all but {config.uncounted_shares} of the survivors of a round, to have added their noise "
        "and to keep it to themselves",
    )


def _released(config: TrainingConfig) -> tuple[str, ...]:
    noised = {
        "local": ("each client's noised update, every round",),
        "distributed": ("the noised sum of clipped gradients, every round",),
        "client": (
            "the noised sum of clipped updates, every round",
            "in it the noised number of clients whose update was below the clip",
        ),
    }
    return (*noised[config.mode], "the common model, which follows from these and adds nothing")


def _randomness(config: TrainingConfig, sampler_error: float) -> str:
    drawn = "noise" if config.mode == "local" else "noise and rounding"
    return (
        f"{drawn}, batches and coins: AES-128-CTR under keys of the system's generator; noise "
        f"from a table within {sampler_error:.1g} of the exact law an entry"
    )


def _floats(config: TrainingConfig) -> str:
    return {
        "local": "gradients in float32, each computed alone and clipped in float64, then "
        f"{_DISCRETE}; floats again after",
        "distributed": "gradients in float32, each computed alone; clipping, sums and rotation in "
        f"float64, then {_DISCRETE}",
        "client": f"training in float32, norms checked in float64, then {_DISCRETE}",
    }[config.mode]


def _assumptions(config: TrainingConfig) -> tuple[str, ...]:
    if config.mode == "local":
        return (_NOISE,)
    if config.protocol == "bonawitz":
        return (
            "X25519, HKDF-SHA256, AES-128 in counter mode and AES-GCM are as good as they are "
            "taken to be, for the secure sum",
            _NOISE,
        )
    if config.protocol in CKKS:
        return (
            "Ring-LWE with ternary secrets at 128 bits, for the secure sum",
            _NOISE,
        )
    return (_NOISE,)
