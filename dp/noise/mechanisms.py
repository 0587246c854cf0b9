"""Noise that clients add in shares: clip, rotate, scale, round, add; decode after the sum.

Every client calls ``encode`` and hands the integers to a secure sum; whoever gets the sum
calls ``decode``; ``event`` is what that release costs. The noise of the sum is made of
shares, each of standard deviation

    sigma_l = z C / sqrt(minimum_survivors - uncounted_shares),

so that the shares of ``minimum_survivors`` clients still make up z C when
``uncounted_shares`` of them are known to the adversary, or were left out. After rounding, the
L2 norm of what one unit contributes is at most D2, with c = scale C [KLS21]:

    D2^2 = min{ (c + sqrt d)^2, c^2 + d/4 + sqrt(2 ln(1/beta)) (c + sqrt(d)/2) }

and the events are priced with D2, never with c. Formulas, proofs and what is not exact:
docs/privacy/distributed-noise.md.

[ATMR21]: Andrew et al., arXiv 1905.03871. [KLS21]: Kairouz, Liu, Steinke, arXiv 2102.06387.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dp.accounting.accountant import ROUNDING_FAILURE
from dp.accounting.events import (
    DiscreteGaussianEvent,
    GaussianEvent,
    NeighboringRelation,
    NoSampling,
    Sampling,
    SkellamEvent,
    Unit,
)
from dp.checks import freeze_floats, integer, positive_float
from dp.errors import InputError
from dp.noise.lanes import DRAWN, NORM_ERROR, WRAP_FAILURE, Lanes, fraction
from dp.noise.rotation import BLOCK, Floats, backward, forward, padded_size
from dp.noise.sampling import DiscreteGaussianSampler, SkellamSampler

Noise: TypeAlias = Literal["skellam", "discrete_gaussian"]
Entropy: TypeAlias = Callable[[int], bytes]

MIN_BITS, MAX_BITS = 2, 32
MAX_CLIENTS: Final = 2**24
_LEAST: Final = 1e-30  # of clip and z; from there to its inverse no square or ratio leaves float64

_ALL: Final = NoSampling()
# Adding 1.5 * 2^(52-f) to a float64 of magnitude below 2^(51-f) leaves round(x * 2^f) in its low
# mantissa bits, on top of the bits of the constant: rounding and conversion in one pass.
_ROUNDER: Final = 1.5 * 2.0**52


@dataclass(frozen=True, slots=True, kw_only=True)
class DistributedNoise:
    """One sum of clients' vectors with noise that no single party knows.

    Formal guarantee, against anyone who sees only sums of ``encode`` and knows at most
    ``uncounted_shares`` of the noise shares (or whose clients left them out): the release is
    as private as ``event(survivors=m)`` says. Add to delta: ``rounding_failure`` per step
    (unit example), and ``sampler_error * draws`` (both units).

    ``unit=Unit.CLIENT``: a client's update is clipped to C, and its rounding redrawn until
    its norm is at most D2. Neighbours are zero-out: the client adds its share either way.
    ``unit=Unit.EXAMPLE``: a client sums the gradients of a batch, each clipped to C before it
    comes here; the sum is clipped to ``batch`` C and rounded once.

    >>> import numpy as np
    >>> noise = DistributedNoise(
    ...     entries=3, clip=1.0, noise_multiplier=4.0, clients=10, minimum_survivors=8, bits=20
    ... )
    >>> seed = bytes(32)  # public: draw it anew each round
    >>> shares = [noise.encode(np.zeros(3), seed=seed) for _ in range(10)]
    >>> noise.decode(sum(shares), seed=seed).shape
    (3,)
    >>> noise.event(survivors=10).steps
    1

    Attributes:
      entries: of a vector, before padding; at most 2^28.
      clip: C, most that one unit adds to the L2 norm, in the vector's unit.
      noise_multiplier: z, of the sum of the shares of minimum_survivors - uncounted_shares clients.
      clients: most that one sum may hold.
      minimum_survivors: least that one sum may hold; the protocol must enforce it.
      uncounted_shares: survivors whose shares count for nothing; at least 1, as a client that sees
        the result knows its own.
      bits: width of a lane of the sum, which holds [-2^(bits-1), 2^(bits-1) - 1].
      scale: integers per unit of the vector. None takes the largest whose lanes hold, and
        whose noise a sampler draws.
      noise: "skellam", or "discrete_gaussian".
      unit: whose presence is hidden.
      batch: examples whose clipped gradients a client's sum can hold unscaled.
      indicator_share: above 0, a client also says a bit, b - 1/2 = +-1/2, which is hidden
        under the same noise: in integers +-k, k^2 this share of D2^2. Only of clients; below 1.

    Raises:
      InputError: an attribute out of range, or P[a lane wraps] above 2^-40 a round.
    """

    entries: int
    clip: float
    noise_multiplier: float
    clients: int
    minimum_survivors: int
    uncounted_shares: int = 1
    bits: int = 16
    scale: float | None = None
    noise: Noise = "skellam"
    unit: Unit = Unit.CLIENT
    batch: int = 1
    indicator_share: float = 0.0

    def __post_init__(self) -> None:
        padded_size(self.entries)
        freeze_floats(self, "clip", "noise_multiplier", most=1 / _LEAST)
        if min(self.clip, self.noise_multiplier) < _LEAST:
            raise InputError(
                f"clip is {self.clip} and noise_multiplier {self.noise_multiplier}, must be at "
                f"least {_LEAST:g}"
            )
        integer("clients", self.clients, 2, MAX_CLIENTS)
        integer("minimum_survivors", self.minimum_survivors, 2, self.clients)
        integer("uncounted_shares", self.uncounted_shares, 1, self.minimum_survivors - 1)
        integer("bits", self.bits, MIN_BITS, MAX_BITS)
        if self.noise not in ("skellam", "discrete_gaussian"):
            raise InputError(f"noise is {self.noise!r}, must be 'skellam' or 'discrete_gaussian'")
        if not isinstance(self.unit, Unit):
            raise InputError(f"unit is {self.unit!r}, not one of dp.accounting.events.Unit")
        integer("batch", self.batch, 1, 2**24 if self.unit is Unit.EXAMPLE else 1)
        share = positive_float("indicator_share", self.indicator_share, below=1.0, zero=True)
        if share and self.unit is Unit.EXAMPLE:
            raise InputError(f"indicator_share is {share}, must be 0 where unit is EXAMPLE")
        scale = self._lanes.largest_scale() if self.scale is None else self.scale
        object.__setattr__(self, "scale", positive_float("scale", scale))
        if (risk := self.wrap_probability) > WRAP_FAILURE:
            raise InputError(
                f"{self.bits}-bit lanes are too narrow for {self.clients} clients and their noise "
                f"at scale {scale:g}, raise bits: P[wrap] is up to {risk:.2g} a round, above 2**-40"
            )
        if not self._norm_allowed > 0:
            raise InputError(
                f"scale {scale:g} rounds the clip away; take a larger one or more bits"
            )

    @property
    def size(self) -> int:
        """Entries of an encoded vector: ``entries``, padding, and the indicator if there is one."""
        return self._padded + bool(self.indicator_share)

    @property
    def _padded(self) -> int:
        return padded_size(self.entries)

    @property
    def resolution(self) -> float:
        """What one unit of an integer is worth: 1 / scale."""
        return 1 / (self.scale or math.nan)  # a number since construction

    @property
    def share_stddev(self) -> float:
        """sigma_l, of one client's noise, in the vector's unit."""
        return (
            self.noise_multiplier
            * self.clip
            / math.sqrt(self.minimum_survivors - self.uncounted_shares)
        )

    @property
    def share_variance(self) -> float:
        """(scale sigma_l)^2, what the sampler draws, in squared integers."""
        return (self.share_stddev / self.resolution) ** 2

    @property
    def rounded_l2_sensitivity(self) -> float:
        """D2, the L2 norm of what one unit adds to the rotated integers."""
        return self._lanes.l2_sensitivity(1 / self.resolution)

    @property
    def indicator_resolution(self) -> int:
        """k: a client whose bit is 1 adds k, one whose bit is 0 takes k away."""
        return self._lanes.indicator_resolution(1 / self.resolution)

    @property
    def l2_sensitivity(self) -> float:
        """What one unit adds to the L2 norm of all integers; see ``rounding_failure``."""
        if not self.indicator_share:
            return self.rounded_l2_sensitivity
        return math.hypot(self.rounded_l2_sensitivity, self.indicator_resolution) * (1 + 2.0**-50)

    @property
    def l1_sensitivity(self) -> float:
        """D1 = D2 min(sqrt d, D2), as no integer is above its square; and k."""
        most = self.rounded_l2_sensitivity
        return most * min(math.sqrt(self._padded), most) + self.indicator_resolution

    @property
    def sensitivity_inflation(self) -> float:
        """D2 / (scale C): by how much rounding stretches what one unit adds."""
        return self.rounded_l2_sensitivity * self.resolution / self.clip

    @property
    def rounding_failure(self) -> float:
        """Added to delta for every step: that a rounded difference is longer than D2."""
        return ROUNDING_FAILURE if self.unit is Unit.EXAMPLE else 0.0

    @property
    def sampler_error(self) -> float:
        """Total-variation distance of one drawn entry from the law that is priced."""
        return float(_sampler(self.noise, self.share_variance).error)

    @property
    def draws(self) -> int:
        """Entries drawn for one sum by clients whose shares count: times ``sampler_error``."""
        return (self.clients - self.uncounted_shares) * self.size

    @property
    def wrap_probability(self) -> float:
        """Bound on P[some lane of one sum wraps], over rotation, rounding and noise.

        For vectors that do not depend on the rotation's seed.
        """
        return math.exp(min(self._lanes.log_wrap(1 / self.resolution), 0.0))

    def stddev(self, survivors: int) -> float:
        """An upper bound on the standard deviation of an entry of the decoded sum.

        Noise of ``survivors`` shares,
        z C sqrt(survivors / (minimum_survivors - uncounted_shares)), and
        rounding of at most step / 2 each.
        """
        return math.sqrt(survivors * (self.share_stddev**2 + self.resolution**2 / 4))

    def indicator_stddev(self, survivors: int) -> float:
        """Standard deviation of the noise in the sum of b - 1/2; sigma_b of [ATMR21]."""
        self._check_indicator()
        return math.sqrt(survivors * self.share_variance) / (2 * self.indicator_resolution)

    def encode(
        self,
        vector: ArrayLike,
        *,
        seed: bytes,
        indicator: bool | None = None,
        entropy: Entropy = os.urandom,
    ) -> NDArray[np.int64]:
        """One client's integers: clipped, rotated, scaled, rounded, with its noise share.

        Computed in float32 for such vectors of clients, else in float64; D2 holds in both.

        | vector            | result                              |
        |-------------------|-------------------------------------|
        | zeros             | noise alone                         |
        | norm above clip   | scaled down to it                   |
        | NaN, inf, -inf    | noise alone: that is how zeros look |
        | not (entries,)    | ``InputError``, nothing drawn     |

        Args:
          vector: floats or integers, shape (entries,).
          seed: of the rotation, at least 16 bytes; public, the same for all clients of a
            sum, drawn after their data was fixed.
          indicator: this client's bit; ``None`` for who says nothing, as zero-out does.
          entropy: of rounding and noise: cryptographic, and never the same for two calls.

        Returns:
          int64, shape (size,). Nothing clamps after the noise: lanes of the sum may wrap.
        """
        if indicator is not None:
            self._check_indicator()
        values = self._checked(vector)
        norm = _norm(values)
        limit = self.batch * self.clip
        factor = limit / norm if norm > limit else 1.0
        rotated = forward(values, seed=seed, scale=factor / self.resolution)
        integers = self._rounded(rotated, entropy)
        if self.indicator_share:
            said = 0 if indicator is None else self.indicator_resolution * (1 if indicator else -1)
            integers = np.append(integers, said)
        integers += _sampler(self.noise, self.share_variance).sample(self.size, entropy=entropy)
        return integers

    def decode(self, total: NDArray[np.signedinteger[Any]], *, seed: bytes) -> NDArray[np.float64]:
        """The noisy sum of the clients' vectors, float64 of shape (entries,).

        Args:
          total: sum of encoded vectors, shape (size,), each lane taken as signed.
          seed: what ``encode`` was given.

        Raises:
          InputError: ``total`` is no such vector.
        """
        self._check_total(total)
        result: NDArray[np.float64] = np.asarray(
            backward(total[: self._padded], self.entries, seed=seed, scale=self.resolution),
            np.float64,
        )
        return result

    def decode_indicator(self, total: NDArray[np.signedinteger[Any]]) -> float:
        """The noisy sum of b - 1/2 over those clients that said a bit. Errors as ``decode``."""
        self._check_total(total)
        self._check_indicator()
        return float(total[-1]) / (2 * self.indicator_resolution)

    def event(
        self, *, survivors: int | None = None, sampling: Sampling = _ALL, steps: int = 1
    ) -> SkellamEvent | DiscreteGaussianEvent:
        """What ``steps`` sums cost: reserve without ``survivors``, commit with them.

        Args:
          survivors: clients in each sum; ``minimum_survivors`` where it is not known yet.
          sampling: how units were drawn; see ``dp.accounting.accountant`` for what is refused.

        Raises:
          InputError: survivors are below the minimum, so nothing may be released, or
            above ``clients``.
        """
        shares = self._shares(survivors)
        adjacency = (
            NeighboringRelation.ZERO_OUT
            if self.unit is Unit.CLIENT
            else NeighboringRelation.ADD_OR_REMOVE
        )
        if self.noise == "skellam":
            return SkellamEvent(
                variance=shares * self.share_variance * (1 - 2.0**-50),
                l2_sensitivity=self.l2_sensitivity,
                l1_sensitivity=self.l1_sensitivity,
                sampling=sampling,
                steps=steps,
                unit=self.unit,
                adjacency=adjacency,
            )
        return DiscreteGaussianEvent(
            shares=shares,
            share_variance=self.share_variance,
            l2_sensitivity=self.l2_sensitivity,
            l1_sensitivity=self.l1_sensitivity,
            entries=self.size,
            sampling=sampling,
            steps=steps,
            unit=self.unit,
            adjacency=adjacency,
        )

    def central_equivalent(
        self, *, survivors: int | None = None, sampling: Sampling = _ALL, steps: int = 1
    ) -> GaussianEvent:
        """A trusted server's float Gaussian of the same deviation: for comparison alone.

        Never the price of a release of this mechanism.
        """
        like = self.event(survivors=survivors, sampling=sampling, steps=steps)
        ratio = self._shares(survivors) / (self.minimum_survivors - self.uncounted_shares)
        return GaussianEvent(
            noise_multiplier=self.noise_multiplier * math.sqrt(ratio),
            sampling=sampling,
            steps=steps,
            unit=self.unit,
            adjacency=like.adjacency,
        )

    @property
    def _lanes(self) -> Lanes:
        return Lanes(
            bits=self.bits,
            clients=self.clients,
            size=self._padded,
            clip=self.clip,
            batch=self.batch,
            share_stddev=self.share_stddev,
            skellam=self.noise == "skellam",
            redrawn=self.unit is Unit.CLIENT,
            indicator_share=self.indicator_share,
        )

    def _check_indicator(self) -> None:
        if not self.indicator_share:
            raise InputError("indicator_share is 0, must be above 0 where an indicator is sent")

    def _check_total(self, total: NDArray[np.signedinteger[Any]]) -> None:
        if not isinstance(total, np.ndarray) or total.dtype.kind != "i":
            raise InputError("total must be an array of signed integers")
        if total.shape != (self.size,):
            raise InputError(f"total has shape {total.shape}, expected ({self.size},)")

    def _shares(self, survivors: int | None) -> int:
        if survivors is None:
            survivors = self.minimum_survivors
        integer("survivors", survivors, self.minimum_survivors, self.clients)
        return survivors - self.uncounted_shares

    @property
    def _fraction(self) -> int:
        """Bits after the point that rounding sees: as many as a float64 of this norm has."""
        return fraction(self.batch * self.clip / self.resolution)

    @property
    def _norm_allowed(self) -> float:
        """Largest norm of a client's vector before it is cut to ``_fraction`` bits, rounded."""
        c = self.clip / self.resolution
        return c * (1 - NORM_ERROR) - math.sqrt(self._padded) * 2.0 ** -(self._fraction + 1)

    def _checked(self, vector: ArrayLike) -> Floats:
        array = np.asarray(vector)
        if array.dtype.kind not in "fiu" or array.itemsize > 8:
            raise InputError(f"vector holds {array.dtype}, must be numbers of at most 64 bits")
        if array.shape != (self.entries,):
            raise InputError(f"vector has shape {array.shape}, expected ({self.entries},)")
        if not np.isfinite(array).all():
            # A refusal would tell whoever chose the model whose vector overflowed, free of charge.
            array = np.zeros_like(array)
        # For examples the distance of two rotated sums counts, so float errors do.
        single = array.dtype.kind == "f" and array.itemsize <= 4 and self.unit is Unit.CLIENT
        return array.astype(np.float32, copy=False) if single else np.asarray(array, np.float64)

    def _rounded(self, rotated: Floats, entropy: Entropy) -> NDArray[np.int64]:
        """Stochastically, each entry up or down by its fraction; redrawn where D2 asks for it."""
        redraw, factor, most = self.unit is Unit.CLIENT, 1.0, self.rounded_l2_sensitivity
        if redraw and (norm := _norm(rotated)) > self._norm_allowed:
            factor = self._norm_allowed / norm
        integers = np.empty(len(rotated), np.int64)
        while True:
            norm = _round(rotated, factor, self._fraction, entropy, integers)
            if not redraw or norm * (1 + NORM_ERROR) <= most:
                return integers


@lru_cache(maxsize=8)
def _sampler(noise: Noise, variance: float) -> SkellamSampler | DiscreteGaussianSampler:
    return SkellamSampler(variance) if noise == "skellam" else DiscreteGaussianSampler(variance)


def _norm(vector: Floats) -> float:
    """The L2 norm in float64, without overflow, to a relative 2^-38."""
    largest = max(float(vector.max()), -float(vector.min()))
    if largest == 0:
        return 0.0
    power = math.ldexp(1.0, math.frexp(largest)[1] - 1)  # exact to divide by
    squares = []
    scratch = np.empty(min(BLOCK, len(vector)), np.float64)
    for start in range(0, len(vector), BLOCK):
        part = vector[start : start + BLOCK]
        unit = scratch[: len(part)]
        np.divide(part, power, out=unit)
        squares.append(float(unit @ unit))
    return power * math.sqrt(math.fsum(squares))


def _round(
    rotated: Floats, factor: float, places: int, entropy: Entropy, out: NDArray[np.int64]
) -> float:
    """Write the rounded entries of ``factor`` ``rotated`` and return their L2 norm.

    An entry, cut to ``places`` bits after the point, is rounded up with exactly the
    probability that those bits say.
    """
    rounder = _ROUNDER * 2.0**-places
    offset = np.float64(rounder).view(np.int64)
    scratch = np.empty(min(BLOCK, len(rotated)), np.float64)
    squares = []
    for start in range(0, len(rotated), BLOCK):
        part, block = rotated[start : start + BLOCK], out[start : start + BLOCK]
        scaled = scratch[: len(part)]
        np.multiply(part, factor, out=scaled, dtype=np.float64)
        np.add(scaled, rounder, out=scaled)
        np.subtract(scaled.view(np.int64), offset, out=block)
        bits = np.frombuffer(entropy(4 * len(part)), "<u4")
        if len(bits) != len(part):
            raise InputError("entropy returned another number of bytes than asked for")
        np.add(block, bits >> np.uint32(DRAWN - places) if places < DRAWN else bits, out=block)
        np.right_shift(block, places, out=block)
        np.copyto(scaled, block)
        squares.append(float(scaled @ scaled))
    return math.sqrt(math.fsum(squares))
