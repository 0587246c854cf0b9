"""What a client computes and a round releases, by where the noise is and whom it hides.

| mode | hides | where the noise is |
|---|---|---|
| ``none`` | nothing | nowhere |
| ``local`` | an example | in each client's own steps |
| ``distributed`` | an example | in shares, in the sum of clipped gradients of every step |
| ``client`` | a client's whole update | in shares, in the sum of clipped updates |

With a user's own loss no bound on a gradient is known. Without noise the range of an entry is then
the setting ``clip``; what is beyond is cut, and counted under the masks. Buffers in floats, such as
the statistics of BatchNorm, are averaged beside the parameters; integers stay. Under noise nothing
but parameters travels, and a model with such statistics is refused.

Under ``distributed`` and ``client`` a client that fails on its data, or whose update is not finite,
brings zeros and its share of noise: that it failed would be seen by whoever chose the model.

A mode is asked in the order of a round: ``words`` (or ``reals``) of each client that takes
part, ``moved`` for what comes of their sum. ``event`` is what a round costs each of them.
Under the last three the noised vector is all that leaves, and its sum is divided by a
public number: a weight, a loss or a count beside it would be a release of its own.

[ATMR21]: Andrew et al., Differentially Private Learning with Adaptive Clipping, arXiv
1905.03871.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secagg.extras import missing

try:
    import torch
    from torch import Tensor, nn
    from torch.nn.modules.batchnorm import _NormBase
except ModuleNotFoundError as error:
    raise missing("secagg.training.modes", "torch", extra="train") from error

from dp.accounting.accountant import FLOODING_FAILURE, check_delta, flooding_epsilon
from dp.accounting.calibrate import calibrate_noise
from dp.accounting.events import (
    CohortSecrecy,
    Event,
    GaussianEvent,
    HiddenPoissonSampling,
    NoSampling,
    PoissonSampling,
    Sampling,
    Unit,
)
from dp.errors import UnsoundModel
from dp.ledger.description import SystemDescription
from dp.noise.mechanisms import DistributedNoise
from dp.noise.sampling import coins
from dp.sgd import ClippedSums, LocalDpSgd
from secagg.errors import InputError
from secagg.planning.noise import calibrate_shared_noise
from secagg.rounds.ckks import CKKS, FLOODING
from secagg.rounds.parties import Words
from secagg.training.data import ROW_NORM, Examples, Federation
from secagg.training.description import statement
from secagg.training.devices import ALIKE, Device, Devices, settings_of
from secagg.training.settings import TrainingConfig
from secagg.training.tasks import Loss, check_on_zeros, cross_entropy, measure, summed_loss, tensors
from secagg.vectors.compress import NOTHING, Compress
from secagg.vectors.layout import UPDATE, WEIGHT, Count, Layout, NoisyIntegers, Segment
from secagg.vectors.quantize import FixedPoint
from secagg.vectors.vector import flatten, unflatten

ACCURACY: Final = "accuracy"
BUFFERS: Final = "buffers"
CLIPPED: Final = "clipped"
PARTS: Final = "parts"  # a client's weight for each parameter that it trains, otherwise 0
BUFFER_CODEC: Final = FixedPoint(clip=2.0**12, bits=32)  # of what one round moves them by
NOISE_TAIL: Final = 8.0  # deviations; one entry in 10^15 is beyond, and then clamped

CLIP_QUANTILE: Final = 0.5  # of the clients' norms, to which the clip moves [ATMR21, sec. 3]
CLIP_RATE: Final = 0.2  # of that movement [ATMR21, sec. 3.1]
CLIP_SHARE: Final = 0.1  # of the squared sensitivity, for the bit that says "my norm is below"

Sums: TypeAlias = Mapping[str, NDArray[Any]]
Brought: TypeAlias = tuple[dict[str, Any], int]
State: TypeAlias = Mapping[str, float]

_SPARE: Final = 2.0**-20  # of delta, kept for what fails for other reasons than the noise


class Mode(ABC):
    """How one run computes and releases.

    Attributes:
      layout: of the vector that a client brings.
      state: what the next round starts from, beside the model: public, kept in the record.
      noise_multiplier: of one sum's noise over what one unit adds to it; 0 without privacy.
      delta: at which the accountant is asked for epsilon.
      flooding_epsilon: what opened CKKS sums add to that epsilon over all rounds.
      clipped: the share of entries that the last sum cut; None where none can be.
    """

    layout: Layout
    noise_multiplier: float = 0.0
    flooding_epsilon: float = 0.0
    clipped: float | None = None
    delta: float

    def __init__(
        self,
        config: TrainingConfig,
        federation: Federation,
        model: nn.Module,
        devices: Devices = ALIKE,
    ) -> None:
        self._config, self._devices = config, devices
        self._own_configs = settings_of(config, devices)
        self._sizes = [len(examples) for examples in federation.clients]
        self._weights = self._sizes if config.weighs_examples else [1] * len(self._sizes)
        self._entries = flatten(model).numel()
        self._rate = config.learning_rate
        self._clients: Sequence[Any] = ()
        self.state: State = {}
        self.delta = config.delta

    def use_learning_rate(self, rate: float) -> None:
        """Take this step size from now on, at most that of the settings."""
        self._rate = rate
        for client in self._clients:
            client.learning_rate = rate

    @abstractmethod
    def brings(self, client: int, start: Tensor, seed: bytes) -> Brought:
        """What ``client`` says, and its weight, after training from ``start``; public ``seed``."""

    def words(self, client: int, start: Tensor, seed: bytes) -> Words:
        """The same as words, summed without masks."""
        values, weight = self.brings(client, start, seed)
        return self.layout.encode(values, weight=weight)

    @abstractmethod
    def moved(self, sums: Sums, survivors: Sequence[int], seed: bytes) -> Tensor:
        """The update of the common model, from the decoded sum; advances ``state``."""

    def event(self, survivors: int | None = None, client: int | None = None) -> Event | None:
        """What a round of so many survivors costs a client; of the fewest, or the dearest."""
        return None

    def statement(self) -> SystemDescription | None:
        """What the ledger says beside its numbers."""
        return None

    def _check_whole_delta(self, stated: SystemDescription, *, steps: int) -> None:
        config = self._config
        whole = stated.delta(self.delta, epsilon=config.epsilon, rounds=config.rounds, steps=steps)
        if whole.total > config.delta:
            raise InputError(
                f"delta {config.delta:g} is used up by rounding and sampling errors alone "
                f"({whole.total:.3g} over {config.rounds} rounds); raise it"
            )

    @property
    def _dearest(self) -> TrainingConfig:
        """The settings with the largest rate and the most steps of any client."""
        return replace(
            self._config,
            sampling_rate=max(own.sampling_rate for own in self._own_configs),
            local_steps=max(own.local_steps for own in self._own_configs),
        )

    def _plain(
        self, federation: Federation, model: nn.Module, loss: Loss | None
    ) -> "list[PlainSgd]":
        # One copy for all: each begins with the common parameters and buffers, one after the other.
        found, common, forms = [], copy.deepcopy(model), set()
        for client, examples in enumerate(federation.clients):
            device = self._devices.get(client, Device())
            party = PlainSgd(self._own_configs[client], examples, common, loss)
            if loss is not None and party.form not in forms:
                check_on_zeros(model, examples, loss)
                forms.add(party.form)
            party.train_only(device)
            found.append(party)
        return found

    def _weight(self, survivors: Sequence[int]) -> int:
        """The public weight of those in a sum."""
        return sum(self._weights[client] for client in survivors)


class Plain(Mode):
    """Without privacy. Weights travel along, each in its own segment, and an accuracy or buffers.

    ``moved`` writes the mean buffers into the common model, which is the one handed in.
    """

    def __init__(
        self,
        config: TrainingConfig,
        federation: Federation,
        model: nn.Module,
        loss: Loss | None,
        devices: Devices = ALIKE,
    ) -> None:
        super().__init__(config, federation, model, devices)
        self._model = model
        self._clients = self._plain(federation, model, loss)
        self._own = loss is not None
        clip = config.clip if self._own else _largest_entry(config, ROW_NORM)
        codec = FixedPoint(clip=clip, bits=config.bits)
        self._compress = Compress.parse(config.compress)
        sent = self._compress.size(self._entries)
        most, buffers = max(self._weights), sum(b.numel() for b in _buffers(model).values())
        if buffers and config.protocol in CKKS:
            raise InputError(
                f"the model has buffers in floats, whose range is too wide for the precision of "
                f"{config.protocol}; take another protocol, or a model without running statistics"
            )
        segments = [
            Segment(name=UPDATE, entries=sent, codec=codec, weighted=True),
            Segment(name=WEIGHT, entries=1, codec=Count(maximum=most)),
        ]
        if self._own:
            segments.append(Segment(name=CLIPPED, entries=1, codec=Count(maximum=sent + buffers)))
        else:
            accuracy = FixedPoint(clip=1.0, bits=16)
            segments.append(Segment(name=ACCURACY, entries=1, codec=accuracy, weighted=True))
        self._parts = [p.numel() for p in model.parameters() if p.requires_grad]
        self._apart = any(device.trains is not None for device in devices.values())
        if self._apart and self._compress.rotate:
            raise InputError(
                f"compress {self._compress} mixes parameters, of which some clients train a part"
            )
        if self._apart:
            codec_of_parts = Count(maximum=most)
            segments.append(Segment(name=PARTS, entries=len(self._parts), codec=codec_of_parts))
        if buffers:
            segments.append(
                Segment(name=BUFFERS, entries=buffers, codec=BUFFER_CODEC, weighted=True)
            )
        self._all_sent = sent + buffers
        self.layout = Layout(segments=tuple(segments), clients=config.clients, max_weight=most)

    def brings(self, client: int, start: Tensor, seed: bytes) -> Brought:
        party, common = self._clients[client], _buffers(self._model)
        party.take_buffers(self._model)
        update, accuracy = party.update(start)
        if self._compress != NOTHING:
            update = self._compress.forward(update, seed=seed)
        weight = self._weights[client]
        if not self._own:
            return {UPDATE: update, WEIGHT: weight, ACCURACY: accuracy}, weight
        values = {UPDATE: update, WEIGHT: weight}
        if self._apart:
            values[PARTS] = [weight * trained for trained in party.trains]
        if common:
            values[BUFFERS] = _flat(_buffers(party.model)) - _flat(common)
        limits = {UPDATE: self._config.clip, BUFFERS: BUFFER_CODEC.clip}
        cut = {n: np.count_nonzero(np.abs(v) > limits[n]) for n, v in values.items() if n in limits}
        return {**values, CLIPPED: sum(cut.values())}, weight

    def moved(self, sums: Sums, survivors: Sequence[int], seed: bytes) -> Tensor:
        weight = int(sums[WEIGHT][0])
        if self._own:
            self.clipped = float(sums[CLIPPED][0]) / (self._all_sent * len(survivors))
        if BUFFERS in sums:
            _move_buffers(self._model, sums[BUFFERS] / weight)
        update = sums[UPDATE]
        if self._compress != NOTHING:
            update = self._compress.backward(update, self._entries, seed=seed)
        if not self._apart:
            return torch.from_numpy(update / weight)
        # Each parameter by the weight of those who train it; one that nobody did stays.
        weights = np.repeat(np.maximum(sums[PARTS], 1), self._parts)
        return torch.from_numpy(update / weights)


class Local(Mode):
    """Each client trains under its own noise. What it sends is private whoever reads it."""

    def __init__(
        self,
        config: TrainingConfig,
        federation: Federation,
        model: nn.Module,
        loss: Loss | None,
        done: int,
        devices: Devices = ALIKE,
    ) -> None:
        super().__init__(config, federation, model, devices)
        self.delta = config.delta * (1 - _SPARE)
        check_delta(config.delta, units=sum(self._sizes))
        # By RDP, as the ledger admits: with less noise it would stop the plan before its end.
        self.noise_multiplier = z = calibrate_noise(
            lambda noise: self._at(noise, config.rounds), epsilon=config.epsilon, delta=self.delta
        )
        self._clients = [
            LocalDpSgd(
                model,
                *tensors(examples, model),
                loss or cross_entropy,
                learning_rate=config.learning_rate,
                clip=config.clip,
                noise_multiplier=z,
                sampling_rate=own.sampling_rate,
                steps_taken=done * own.local_steps,
            )
            for own, examples in zip(self._own_configs, federation.clients, strict=True)
        ]
        charged = zip(self._clients, self._own_configs, strict=True)
        if any(each.event(own.local_steps) != self._at(z, own=own) for each, own in charged):
            raise InputError("an optimizer would release something else than the ledger charges")
        steps = max(own.local_steps for own in self._own_configs)
        self._check_whole_delta(self.statement(), steps=config.rounds * steps)
        tail = NOISE_TAIL * z * config.clip / min(self._sizes)
        largest = max(_largest_entry(own, config.clip + tail) for own in self._own_configs)
        codec = FixedPoint(clip=largest, bits=config.bits)
        self.layout = Layout(
            segments=(Segment(name=UPDATE, entries=self._entries, codec=codec, weighted=True),),
            clients=config.clients,
            max_weight=max(self._weights),
        )

    def brings(self, client: int, start: Tensor, seed: bytes) -> Brought:
        trained = self._clients[client].run(start, self._own_configs[client].local_steps)
        return {UPDATE: (trained - start).cpu().numpy()}, self._weights[client]

    def moved(self, sums: Sums, survivors: Sequence[int], seed: bytes) -> Tensor:
        return torch.from_numpy(sums[UPDATE] / self._weight(survivors))

    def event(self, survivors: int | None = None, client: int | None = None) -> Event:
        own = None if client is None else self._own_configs[client]
        return self._at(self.noise_multiplier, own=own)

    def statement(self) -> SystemDescription:
        return statement(
            self._dearest,
            uneven=bool(self._devices),
            units=sum(self._sizes),
            sampler_error=max(client.sampler_error for client in self._clients),
            draws=self._entries,
        )

    def _at(self, noise: float, rounds: int = 1, *, own: TrainingConfig | None = None) -> Event:
        own = own or self._dearest
        return GaussianEvent(
            noise_multiplier=noise,
            sampling=PoissonSampling(rate=own.sampling_rate),
            steps=own.local_steps * rounds,
        )


class _Shared(Mode):
    """Noise in shares: a round costs what the shares of its survivors make it cost.

    Attributes:
      mechanism: what a client adds its share with.
      sampling: how a unit gets into a sum.
    """

    mechanism: DistributedNoise
    sampling: Sampling

    def __init__(
        self,
        config: TrainingConfig,
        federation: Federation,
        model: nn.Module,
        units: int,
        devices: Devices = ALIKE,
    ) -> None:
        super().__init__(config, federation, model, devices)
        self._units = units
        check_delta(config.delta, units=units)
        self.flooding_epsilon, failing = self._flooding(config)
        self.delta = config.delta * (1 - _SPARE) - failing
        if min(self.delta, config.epsilon - self.flooding_epsilon) <= 0:
            raise InputError(
                f"flooding alone uses up epsilon {config.epsilon:g} or delta {config.delta:g} over "
                f"{config.rounds} rounds; take fewer rounds or another protocol"
            )
        self.noise_multiplier = calibrate_shared_noise(
            self._at,
            epsilon=config.epsilon - self.flooding_epsilon,
            delta=self.delta,
            sampling=self.sampling,
            steps=config.rounds,
        )
        self.mechanism = self._at(self.noise_multiplier)
        self._check_whole_delta(self.statement(), steps=config.rounds)
        self.layout = Layout(
            segments=(
                Segment(
                    name=UPDATE, entries=self.mechanism.size, codec=NoisyIntegers(bits=config.bits)
                ),
            ),
            clients=config.clients,
        )

    @abstractmethod
    def _at(self, noise: float) -> DistributedNoise:
        """The mechanism at this noise multiplier."""

    def _flooding(self, config: TrainingConfig) -> tuple[float, float]:
        """What decryptions add to epsilon, and may leave to delta; a key each round."""
        if config.protocol not in CKKS:
            return 0.0, 0.0
        added = flooding_epsilon(FLOODING, config.rounds, config.epsilon)
        ciphertexts = config.rounds * (1 + 2 * self._entries * config.clients // 2048)
        return added, float(config.delta * added + ciphertexts * FLOODING_FAILURE)

    def event(self, survivors: int | None = None, client: int | None = None) -> Event:
        sampling = self.sampling if client is None else self._sampling_of(client)
        return self.mechanism.event(survivors=survivors, sampling=sampling)

    def _sampling_of(self, client: int) -> Sampling:
        """How a unit of this client gets into a sum."""
        return self.sampling

    def statement(self) -> SystemDescription:
        return statement(
            self._dearest,
            uneven=bool(self._devices),
            units=self._units,
            mechanism=self.mechanism,
            sampler_error=self.mechanism.sampler_error,
            draws=self.mechanism.draws,
        )


class Distributed(_Shared):
    """One secure sum a step: clipped gradients of a Poisson batch, a share of noise on each sum."""

    def __init__(
        self,
        config: TrainingConfig,
        federation: Federation,
        model: nn.Module,
        loss: Loss | None = None,
        devices: Devices = ALIKE,
    ) -> None:
        own_rates = [own.sampling_rate for own in settings_of(config, devices)]
        self.sampling = _poisson(max(own_rates))
        super().__init__(config, federation, model, sum(map(len, federation.clients)), devices)
        self._clients = [
            ClippedSums(
                model,
                *tensors(examples, model),
                loss or cross_entropy,
                clip=config.clip,
                sampling_rate=rate,
            )
            for rate, examples in zip(own_rates, federation.clients, strict=True)
        ]

    def _sampling_of(self, client: int) -> Sampling:
        return _poisson(self._own_configs[client].sampling_rate)

    def use_learning_rate(self, rate: float) -> None:
        self._rate = rate  # a client takes no step of its own

    def brings(self, client: int, start: Tensor, seed: bytes) -> Brought:
        summed = self._clients[client].sum(start).cpu().numpy()
        return {UPDATE: self.mechanism.encode(summed, seed=seed)}, 1

    def moved(self, sums: Sums, survivors: Sequence[int], seed: bytes) -> Tensor:
        gradient = torch.from_numpy(self.mechanism.decode(sums[UPDATE], seed=seed))
        expected = sum(self._clients[client].expected_batch for client in survivors)
        moved: Tensor = -self._rate / expected * gradient
        return moved

    def _at(self, noise: float) -> DistributedNoise:
        config = self._config
        return DistributedNoise(
            entries=self._entries,
            clip=config.clip,
            noise_multiplier=noise,
            clients=config.clients,
            minimum_survivors=config.minimum_survivors,
            uncounted_shares=config.uncounted_shares,
            bits=config.bits,
            unit=Unit.EXAMPLE,
            batch=max(self._sizes),
        )


class Client(_Shared):
    """Clipped updates with a share of noise each; the clip follows the clients' median norm.

    The mechanism works in units of the clip, so that what a round costs does not move with it.
    """

    def __init__(
        self,
        config: TrainingConfig,
        federation: Federation,
        model: nn.Module,
        loss: Loss | None = None,
        devices: Devices = ALIKE,
    ) -> None:
        _check_statistics(model)
        rate = config.client_sampling_rate
        self.sampling = (
            HiddenPoissonSampling(rate=rate, cover=CohortSecrecy.ALL_TAKE_PART)
            if rate < 1
            else NoSampling()
        )
        super().__init__(config, federation, model, config.clients, devices)
        self._clients = self._plain(federation, model, loss)
        self.state = {"clip": config.clip}

    def brings(self, client: int, start: Tensor, seed: bytes) -> Brought:
        clip = self.state["clip"]
        try:
            update, _ = self._clients[client].update(start)
        except Exception:  # noqa: BLE001  # whatever it is, it is made of this client's examples
            update = np.full(self._entries, math.nan, np.float32)
        norm = float(np.linalg.norm(update.astype(np.float64)))
        below: bool | None = norm <= clip
        # The same work before either side of the coin: when a client answers shows nothing.
        if not _coin(self._config.client_sampling_rate) or not math.isfinite(norm):
            update, below = np.zeros(self._entries, np.float32), None
        integers = self.mechanism.encode(
            update / np.asarray(clip, update.dtype), seed=seed, indicator=below
        )
        return {UPDATE: integers}, 1

    def moved(self, sums: Sums, survivors: Sequence[int], seed: bytes) -> Tensor:
        clip = self.state["clip"]
        expected = len(survivors) * self._config.client_sampling_rate
        update = clip / expected * self.mechanism.decode(sums[UPDATE], seed=seed)
        below = self.mechanism.decode_indicator(sums[UPDATE]) / expected + 0.5
        moved = CLIP_RATE * (min(max(below, 0.0), 1.0) - CLIP_QUANTILE)
        self.state = {"clip": clip * math.exp(-moved)}
        return torch.from_numpy(update)

    def _at(self, noise: float) -> DistributedNoise:
        config = self._config
        return DistributedNoise(
            entries=self._entries,
            clip=1.0,
            noise_multiplier=noise,
            clients=config.clients,
            minimum_survivors=config.minimum_survivors,
            uncounted_shares=config.uncounted_shares,
            bits=config.bits,
            unit=Unit.CLIENT,
            indicator_share=CLIP_SHARE,
        )


def mode(
    config: TrainingConfig,
    federation: Federation,
    model: nn.Module,
    done: int = 0,
    loss: Loss | None = None,
    devices: Devices = ALIKE,
) -> Mode:
    """The mode of a run of which ``done`` rounds are finished; with a user's own ``loss``.

    ``devices`` are clients that train less than the settings say.

    Raises:
      InputError, PrivacyError: the settings cannot be kept.
    """
    match config.mode:
        case "none":
            return Plain(config, federation, model, loss, devices)
        case "local":
            return Local(config, federation, model, loss, done, devices)
        case "distributed":
            return Distributed(config, federation, model, loss, devices)
        case "client":
            return Client(config, federation, model, loss, devices)
        case other:
            raise InputError(f"unknown mode {other!r}")


class PlainSgd:
    """SGD without privacy, on batches drawn like the private ones, so that the two compare.

    Attributes:
      model: where it works, as the last ``update`` left it.
      learning_rate: of the next ``update``.
      trains: whether each parameter is trained, in their order.
      form: of one example; two clients of one form work alike.
    """

    def __init__(
        self,
        config: TrainingConfig,
        examples: Examples,
        model: nn.Module,
        loss: Loss | None = None,
    ) -> None:
        self._config = config
        self._examples = examples
        self._features, self._labels = tensors(examples, model)
        both = (self._features, self._labels)
        self.form = tuple((each.shape[1:], each.dtype) for each in both)
        self._own, self._loss = loss is not None, loss or cross_entropy
        self.model = model
        self.learning_rate = config.learning_rate
        # Statistics of a batch need two examples.
        mixing = any(isinstance(module, _NormBase) for module in model.modules())
        self._least = 2 if mixing else 1
        self._mask: Tensor | None = None
        self.train_only(Device())

    def train_only(self, device: Device) -> None:
        """Leave all parameters as they come that ``device`` does not train."""
        named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        self.trains = device.trained(name for name, _ in named)
        self._mask = None
        if not all(self.trains):
            kept = zip(named, self.trains, strict=True)
            self._mask = torch.cat([torch.full_like(p, t).reshape(-1) for (_, p), t in kept])

    def take_buffers(self, common: nn.Module) -> None:
        """Begin where the common model stands, in what is no parameter."""
        for kept, new in zip(self.model.buffers(), common.buffers(), strict=True):
            kept.copy_(new)

    def update(self, start: Tensor) -> tuple[NDArray[Any], float]:
        """The difference that training makes; for the built-in model the accuracy before it.

        With the built-in model neither raises whatever the examples are; the difference is NaN if
        training diverged.
        """
        config, model = self._config, self.model
        unflatten(start, model)
        accuracy = math.nan if self._own else measure(model, self._examples)[0] or 0.0
        expected, diverged = config.sampling_rate * len(self._labels), False
        for _ in range(config.local_steps):
            batch = torch.from_numpy(coins(len(self._labels), config.sampling_rate))
            model.zero_grad()
            if len(batch) >= self._least:
                batch = batch.to(self._labels.device)
                losses = self._loss(model(self._features[batch]), self._labels[batch])
                summed_loss(losses, len(batch)).backward()  # type: ignore[no-untyped-call]  # torch
            gradient = flatten(model, of="gradients")
            if self._mask is not None:
                gradient = gradient * self._mask
            moved = flatten(model) - self.learning_rate / expected * gradient
            if torch.isfinite(moved).all():
                unflatten(moved, model)
            else:  # the steps that are left take their time all the same
                diverged = True
        update = flatten(model) - start
        return (update * math.nan if diverged else update).cpu().numpy(), accuracy


def evaluate(model: nn.Module, examples: Examples) -> tuple[float, float]:
    """Accuracy and mean loss on public examples; raises where training diverged."""
    value, loss = measure(model, examples)
    check_loss(loss)
    return value or 0.0, loss


def check_loss(loss: float) -> None:
    """Refuse a loss that is not finite."""
    if not math.isfinite(loss):
        raise InputError("the training has diverged: the loss is not finite; lower learning_rate")


def _check_statistics(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, _NormBase) and module.track_running_stats:
            raise UnsoundModel(
                f"module {name!r} is a {type(module).__name__}: its running statistics are made of "
                "examples, and under noise only parameters travel; take GroupNorm"
            )


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    """The buffers that are averaged, by name."""
    return {name: kept for name, kept in model.named_buffers() if kept.is_floating_point()}


def _flat(buffers: Mapping[str, Tensor]) -> NDArray[np.float64]:
    return torch.cat([kept.reshape(-1).double().cpu() for kept in buffers.values()]).numpy()


def _move_buffers(model: nn.Module, moves: NDArray[np.float64]) -> None:
    """Add the mean moves. No variance falls below 0, as rounding could make it."""
    kept = _buffers(model)
    pieces = torch.split(torch.from_numpy(moves), [each.numel() for each in kept.values()])
    for (name, buffer), piece in zip(kept.items(), pieces, strict=True):
        moved = buffer.double().cpu() + piece.view_as(buffer)
        buffer.copy_(moved.clamp_min(0.0) if name.endswith("running_var") else moved)


def _poisson(rate: float) -> Sampling:
    return PoissonSampling(rate=rate) if rate < 1 else NoSampling()


def _coin(rate: float) -> bool:
    """A secret coin, true with probability ``rate`` exactly."""
    return bool(len(coins(1, rate)))


def _largest_entry(config: TrainingConfig, gradient: float) -> float:
    """A bound on one entry of an update, from public numbers alone; what is beyond is clamped.

    A step moves an entry by at most ``learning_rate / (q N)`` times the batch's gradients,
    N of at most ``gradient`` each, noise included.
    """
    return config.local_steps * config.learning_rate * gradient / config.sampling_rate
