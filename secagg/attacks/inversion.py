"""Gradient inversion: the picture behind an update, behind a sum, behind a sum with noise.

Each of ``clients`` holds one digit and sends one gradient of a model that all know. The
attacker sees single ones, the sum of all, or the sum as ``dp.noise.mechanisms``
releases it, and looks for the pictures:

| model | how |
|---|---|
| ``softmax`` | exactly: grad W_c / grad b_c is the input, for the one class c whose grad b_c < 0 |
| ``mlp`` | dummy pictures whose gradient is brought to the one seen [ZLH19], labels by [ZMB20] |

Of a sum the attacker is told the labels and how many there are, and is judged by the dummy
nearest to each picture. **A sum is no guarantee**: most pictures stay hidden in a sum of
twenty, but ``mlp`` gives 2 or 3 of them away at the defaults (measured), and a longer search or
a wider model more. Of the noised sum none came out.

[ZLH19]: Zhu, Liu, Han, Deep Leakage from Gradients, arXiv 1906.08935. [ZMB20]: Zhao, Mopuri,
Bilen, iDLG, arXiv 2001.02610. [WBSS04]: Wang et al., Image Quality Assessment, IEEE TIP 13(4).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeAlias, cast, get_args

import numpy as np
from numpy.typing import NDArray

from dp.accounting.accountant import epsilon_rdp
from dp.accounting.events import NoSampling, Unit
from dp.empirical import normals
from dp.ledger import Budget
from dp.noise.mechanisms import DistributedNoise
from protocols.entropy import Entropy, system
from secagg.attacks.fields import Fields, shown
from secagg.errors import InputError
from secagg.planning.noise import calibrate_shared_noise
from secagg.training.data import federate

if TYPE_CHECKING:
    from torch import Tensor, nn

Reals: TypeAlias = NDArray[np.float64]
Seen: TypeAlias = Literal["one update", "sum", "noised sum"]
Kind: TypeAlias = Literal["softmax", "mlp"]

SIDE: Final = 8  # pixels of a digit
INK: Final = 0.3  # what secagg.training.data takes away from every pixel before it scales a row
HIDDEN: Final = 16  # of the mlp: 1,210 numbers a gradient, below the 1,280 pixels of 20 digits
SEARCH: Final = 300  # steps of L-BFGS at most; a single digit takes about 50
FOUND: Final = 0.01  # of mean squared error, below which a picture counts as found: 20 dB
BITS: Final = 21  # of a lane, as ``secagg train`` takes them
CLIP: Final = 1.0  # of an example's gradient under noise; without noise nothing is clipped
BUDGET: Final = Budget(epsilon=2.0, delta=1e-4)
MAX_RANK: Final = 10**6  # epsilon, candidates or rank of a result that is read
_OF_PICTURE: Final = ("original", "reconstructed", "mse", "psnr", "ssim", "rank", "recovered")
_NAMES: Final = ("model", "seen", "epsilon", "candidates", "recovered", "clients", "pictures")


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One client's digit, and the reconstruction nearest to it.

    Attributes:
      original, reconstructed: 8 rows of 8 pixels, 0 is paper and 1 is ink.
      mse: mean squared error of a pixel; psnr: the same in dB, infinite at 0.
      ssim: structural similarity over the whole picture as one window [WBSS04]; 1 is equal.
      rank: how many of all candidates are as near to the reconstruction as the original; 1 is
        recognised.
    """

    original: tuple[tuple[float, ...], ...]
    reconstructed: tuple[tuple[float, ...], ...]
    mse: float
    ssim: float
    rank: int

    @property
    def psnr(self) -> float:
        return -10 * math.log10(self.mse) if self.mse else math.inf

    @property
    def recovered(self) -> bool:
        """Whether it ranks first, within ``FOUND``."""
        return self.rank == 1 and self.mse <= FOUND

    def as_dict(self) -> dict[str, Any]:
        """The picture as JSON; pixels as 0 to 255, an infinite psnr is ``None``."""
        psnr = self.psnr if math.isfinite(self.psnr) else None
        grey = {name: _grey(getattr(self, name)) for name in ("original", "reconstructed")}
        return shown(self, _OF_PICTURE, psnr=psnr, **grey)

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """The one whose ``as_dict()`` is ``data``, pixels to the grey that was written.

        Raises:
          InputError: it is no such object, or says what does not follow from its own numbers.
        """
        held = Fields(data, _OF_PICTURE)
        one = cls(
            original=_inked(held, "original"),
            reconstructed=_inked(held, "reconstructed"),
            mse=held.number("mse", 0, 1),
            ssim=held.number("ssim", -1.001, 1.001),  # but for rounding
            rank=held.whole("rank", 1, MAX_RANK),
        )
        held.follows(one.as_dict())
        return one


@dataclass(frozen=True, slots=True, kw_only=True)
class Inversion:
    """What came out of one kind of thing that was seen.

    Attributes:
      model: "softmax" or "mlp".
      seen: "one update", "sum" or "noised sum".
      epsilon: of that release, for one example; ``None`` without noise.
      candidates: digits among which ranks are told.
      pictures: of the clients in what was seen; of "one update" each from its own.
    """

    model: Kind
    seen: Seen
    epsilon: float | None
    candidates: int
    pictures: tuple[Picture, ...]

    @property
    def recovered(self) -> int:
        return sum(picture.recovered for picture in self.pictures)

    @property
    def clients(self) -> int:
        return len(self.pictures)

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON."""
        return shown(self, _NAMES, pictures=[picture.as_dict() for picture in self.pictures])

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """The one whose ``as_dict()`` is ``data``.

        Raises:
          InputError: it is no such object, or says what does not follow from its own numbers.
        """
        held = Fields(data, _NAMES)
        seen = cast("Seen", held.text("seen", get_args(Seen)))
        one = cls(
            model=cast("Kind", held.text("model", get_args(Kind))),
            seen=seen,
            epsilon=held.number("epsilon", 0, MAX_RANK) if seen == "noised sum" else None,
            candidates=held.whole("candidates", 1, MAX_RANK),
            pictures=tuple(map(Picture.from_dict, held.items("pictures", 1, 100))),
        )
        held.follows(one.as_dict())
        return one


def invert_gradients(
    model: Kind = "mlp",
    budget: Budget = BUDGET,
    *,
    clients: int = 20,
    alone: int = 1,
    search: int = SEARCH,
    seed: int = 0,
    entropy: Entropy = system,
) -> tuple[Inversion, ...]:
    """Attack single updates, the sum of all, and the noised sum; in this order.

    Args:
      model: ``softmax`` regression, or ``mlp`` of one hidden layer of sigmoids.
      budget: of the noised sum, of this one release.
      clients: of one example each, from 2 to 100.
      alone: how many of them, the first, are attacked by their own updates.
      search: steps of the search, for ``mlp``.
      seed: of digits and model.
      entropy: of the pictures that the search starts from. Noise is the system's.

    Raises:
      InputError, PrivacyError: the settings cannot be kept.
    """
    import torch

    if model not in ("softmax", "mlp") or not 2 <= clients <= 100 or search < 1:
        raise InputError(
            f"model {model!r}, clients {clients}, search {search}: must be softmax or mlp, from 2 "
            "to 100, and at least 1"
        )
    if not 1 <= alone <= clients:
        raise InputError(f"alone {alone} must be from 1 to {clients}")
    data = federate("digits", clients=2, partition="iid", seed=seed)
    digits = np.concatenate([part.features for part in data.clients]).astype(np.float64)
    labels = np.concatenate([part.labels for part in data.clients])[:clients]
    pictures = digits[:clients]
    network = _network(model, data.classes, seed)
    answers = torch.from_numpy(labels)
    each = [
        _flat(_gradients(network, torch.from_numpy(pictures[c : c + 1]), answers[c : c + 1]))
        for c in range(clients)
    ]
    noised, spent = _noised(each, budget)

    def found(gradient: Reals, known: NDArray[np.int64]) -> Reals:
        if model == "softmax":
            return _read_off(gradient, data.classes, known)
        told = torch.from_numpy(known) if len(known) > 1 else _label(gradient, data.classes)
        return _searched(network, gradient, told, search, entropy)

    views: tuple[tuple[Seen, Reals], ...] = (
        ("one update", np.concatenate([found(own, labels[:1]) for own in each[:alone]])),
        ("sum", found(np.sum(each, axis=0), labels)),
        ("noised sum", found(noised, labels)),
    )
    return tuple(
        Inversion(
            model=model,
            seen=seen,
            epsilon=spent if seen == "noised sum" else None,
            candidates=len(digits),
            pictures=tuple(
                _judged(made if seen != "one update" else made[at : at + 1], picture, digits)
                for at, picture in enumerate(pictures[: alone if seen == "one update" else None])
            ),
        )
        for seen, made in views
    )


def _network(kind: Kind, classes: int, seed: int) -> "nn.Module":
    """A model in float64 whose start is public, as every client gets it."""
    import torch
    from torch import nn

    sizes = (SIDE * SIDE, classes) if kind == "softmax" else (SIDE * SIDE, HIDDEN, classes)
    layers: list[nn.Module] = []
    generator = torch.Generator().manual_seed(seed)
    for inputs, outputs in pairwise(sizes):
        layer = nn.Linear(inputs, outputs).double()
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.uniform_(-(inputs**-0.5), inputs**-0.5, generator=generator)
        layers += [layer, nn.Sigmoid()]
    return nn.Sequential(*layers[:-1])


def _gradients(
    network: "nn.Module", inputs: "Tensor", labels: "Tensor", *, again: bool = False
) -> "tuple[Tensor, ...]":
    import torch
    from torch.nn import functional

    loss = functional.cross_entropy(network(inputs), labels, reduction="sum")
    return torch.autograd.grad(loss, list(network.parameters()), create_graph=again)


def _flat(parts: "Sequence[Tensor]") -> Reals:
    return np.concatenate([part.detach().numpy().ravel() for part in parts])


def _noised(each: Sequence[Reals], budget: Budget) -> tuple[Reals, float]:
    """The sum of clipped gradients as the mechanism releases it, and its epsilon."""

    def at(z: float) -> DistributedNoise:
        return DistributedNoise(
            entries=len(each[0]),
            clip=CLIP,
            noise_multiplier=z,
            clients=len(each),
            minimum_survivors=len(each),
            bits=BITS,
            unit=Unit.EXAMPLE,
        )

    noise = calibrate_shared_noise(
        at, epsilon=budget.epsilon, delta=budget.delta, sampling=NoSampling(), steps=1
    )
    mechanism = at(noise)
    seed = system(32)
    total = sum(mechanism.encode(gradient, seed=seed) for gradient in each)
    event = mechanism.event(survivors=len(each))
    return mechanism.decode(np.asarray(total), seed=seed), epsilon_rdp([(event, 1)], budget.delta)


def _label(gradient: Reals, classes: int) -> "Tensor":
    """The one class whose last bias has a negative gradient, p - 1 [ZMB20]."""
    import torch

    return torch.tensor([int(gradient[-classes:].argmin())])


def _read_off(gradient: Reals, classes: int, labels: NDArray[np.int64]) -> Reals:
    """Inputs as grad W_c / grad b_c, c each label, or the class that shows itself."""
    weights, biases = gradient[:-classes].reshape(classes, -1), gradient[-classes:]
    chosen = labels if len(labels) > 1 else [int(biases.argmin())]
    tiny = np.finfo(float).tiny
    return np.stack([weights[c] / (biases[c] if abs(biases[c]) > tiny else tiny) for c in chosen])


def _searched(
    network: "nn.Module", gradient: Reals, labels: "Tensor", steps: int, entropy: Entropy
) -> Reals:
    """Dummies whose summed gradient is as near to ``gradient`` as L-BFGS brings it [ZLH19]."""
    import torch

    wanted = torch.from_numpy(gradient)
    start = INK * normals(len(labels) * SIDE**2, entropy=entropy).reshape(len(labels), -1)
    dummies = torch.from_numpy(start).requires_grad_()
    search = torch.optim.LBFGS(
        [dummies],
        max_iter=steps,
        history_size=20,
        line_search_fn="strong_wolfe",
        tolerance_grad=1e-14,
        tolerance_change=1e-16,
    )

    def distance() -> float:
        search.zero_grad()
        parts = _gradients(network, dummies, labels, again=True)
        found = torch.cat([part.reshape(-1) for part in parts])
        miss = (found - wanted).square().sum() / wanted.square().sum()
        miss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return miss.item()

    search.step(distance)  # type: ignore[no-untyped-call]  # the same
    result: Reals = dummies.detach().numpy()
    return result if np.isfinite(result).all() else start


def _judged(found: Reals, picture: Reals, digits: Reals) -> Picture:
    """A picture against the reconstruction nearest to it."""
    made = found[np.linalg.norm(found - picture, axis=1).argmin()]
    original, shown = _pixels(picture, picture), _pixels(made, picture)
    distances = np.linalg.norm(digits - made, axis=1)
    return Picture(
        original=_rows(original),
        reconstructed=_rows(shown),
        mse=float(((shown - original) ** 2).mean()),
        ssim=_similarity(original, shown),
        # Two ways to the same distance may differ by a rounding.
        rank=int((distances < np.linalg.norm(picture - made) * (1 - 1e-12)).sum()) + 1,
    )


def _pixels(row: Reals, original: Reals) -> Reals:
    """Back from a row of ``secagg.training.data`` to ink in [0, 1], as ``original`` is scaled."""
    scale = INK / -original.min()  # every digit has a pixel without ink
    pixels: Reals = np.clip(row * scale + INK, 0.0, 1.0)
    return pixels


def _rows(pixels: Reals) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in pixels.reshape(SIDE, SIDE).tolist())


def _grey(pixels: tuple[tuple[float, ...], ...]) -> list[list[int]]:
    return [[round(255 * pixel) for pixel in row] for row in pixels]


def _inked(held: Fields, name: str) -> tuple[tuple[float, ...], ...]:
    rows = held.items(name, SIDE, SIDE)
    for row in rows:
        if type(row) is not list or len(row) != SIDE:
            raise InputError(f"{name} has a row {row!r:.40}, must be {SIDE} pixels")
        for pixel in row:
            if type(pixel) is not int or not 0 <= pixel <= 255:
                raise InputError(f"{name} has a pixel {pixel!r:.40}, must be in [0, 255]")
    return tuple(tuple(pixel / 255 for pixel in row) for row in rows)


def _similarity(one: Reals, other: Reals) -> float:
    """SSIM with the constants of [WBSS04], .01^2 and .03^2 of the range."""
    first, second = 0.01**2, 0.03**2
    means = 2 * one.mean() * other.mean() + first, one.mean() ** 2 + other.mean() ** 2 + first
    shared = ((one - one.mean()) * (other - other.mean())).mean()
    spreads = 2 * shared + second, one.var() + other.var() + second
    return float(means[0] * spreads[0] / (means[1] * spreads[1]))
