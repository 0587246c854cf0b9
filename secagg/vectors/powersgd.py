"""PowerSGD [VKJ19] as two sums: matrices of an update as products of two thin ones.

For silos that stay: each keeps what a round left out and adds it to the next update. Both sums are
plain sums of vectors, so any protocol carries them:

    for each round:                         # the same object on each silo, all rounds long
        left = aggregate of silo.left(update)           # P = M Q
        right = aggregate of silo.right(left.mean)      # Q = M' P, P made orthogonal
        model += silo.estimate(right.mean)              # P Q'

P and Q are what the sums give, and public. Each is linear in a silo's M, so that the estimate is
that of the mean: its projection onto the columns of P.

Under noise these are two releases a round, each with its own clip and line in the ledger. What is
kept then carries an example into later rounds, whose noise does not count it: with noise that hides
an example ``memory`` is refused. With noise that hides a client, clip what ``left`` and ``right``
give.

[VKJ19] Vogels, Karimireddy, Jaggi: *PowerSGD: Practical Low-Rank Gradient Compression for
Distributed Optimization*, NeurIPS 2019, algorithms 1 and 2.
"""

import hashlib
import math
from collections.abc import Mapping
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dp.accounting.events import Unit
from protocols.wire import digest
from secagg.errors import InputError

Floats: TypeAlias = NDArray[np.float64]
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]

MOST_RANK: Final = 256
_LABEL: Final = b"secagg 1 powersgd start"


class PowerSgd:
    """One silo's side.

    Args:
      shapes: of the arrays of an update, by name, alike for all silos. One of two dimensions and
        more is a matrix, its first against all others; what would not become smaller travels
        whole, in the first sum.
      rank: columns of P and Q.
      seed: public, the same for all silos: where Q starts.
      memory: keep what a round leaves out. Without it the estimate has a bias.
      unit: whom noise on the two sums hides, if there is any.

    Raises:
      InputError: ``rank`` out of range, no shape, or memory under noise that hides an example.
    """

    def __init__(
        self,
        shapes: Shapes,
        rank: int,
        *,
        seed: bytes,
        memory: bool = True,
        unit: Unit | None = None,
    ) -> None:
        if type(rank) is not int or not 1 <= rank <= MOST_RANK:
            raise InputError(f"rank {rank!r:.40} is not an int from 1 to {MOST_RANK}")
        if not shapes:
            raise InputError("there is no array to send")
        if memory and unit is Unit.EXAMPLE:
            raise InputError(
                "what a round leaves out would carry an example into later rounds, whose noise "
                "does not count it: with noise that hides an example, memory=False"
            )
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.rank, self._memory = rank, memory
        self._q = {
            name: _start(seed, name, columns, rank)
            for name, (rows, columns) in self._matrices().items()
            if rank * (rows + columns) < rows * columns
        }
        self._kept: dict[str, Floats] = {}  # of earlier rounds, as matrices
        self._own: dict[str, Floats] = {}  # this round's update with what was kept
        self._p: dict[str, Floats] = {}
        self._whole: dict[str, Floats] = {}

    def __repr__(self) -> str:
        return f"PowerSgd({len(self._q)} of {len(self.shapes)} arrays at rank {self.rank})"

    @property
    def entries(self) -> int:
        """What both sums of a round hold."""
        sizes = self._matrices()
        thin = sum(self.rank * sum(sizes[name]) for name in self._q)
        return thin + sum(math.prod(sizes[name]) for name in sizes if name not in self._q)

    def left(self, update: Mapping[str, ArrayLike]) -> dict[str, Floats]:
        """What goes into the first sum. Called again, it begins the round again.

        Raises:
          InputError: an array is missing, of another shape, or not finite.
        """
        if update.keys() != self.shapes.keys():
            raise InputError("an update must have the arrays that shapes names, and no other")
        self._own, self._p, self._whole = {}, {}, {}
        for name, (rows, columns) in self._matrices().items():
            values = np.asarray(update[name], np.float64)
            if values.shape != self.shapes[name]:
                raise InputError(f"{name!r} has shape {values.shape}, not {self.shapes[name]}")
            if not np.isfinite(values).all():
                raise InputError(f"{name!r} holds NaN or infinity")
            self._own[name] = values.reshape(rows, columns) + self._kept.get(name, 0.0)
        return {
            name: own @ self._q[name] if name in self._q else own.reshape(self.shapes[name])
            for name, own in self._own.items()
        }

    def right(self, mean: Mapping[str, ArrayLike]) -> dict[str, Floats]:
        """What goes into the second sum, from the mean of the first.

        Raises:
          InputError: there was no ``left``, or the mean is of other shapes.
        """
        if not self._own:
            raise InputError("left(update) comes first")
        sizes = self._matrices()
        for name in self._own:
            wanted = (sizes[name][0], self.rank) if name in self._q else self.shapes[name]
            values = _checked(name, mean, wanted)
            if name in self._q:
                self._p[name] = np.linalg.qr(values)[0]
            else:
                self._whole[name] = values
        return {name: self._own[name].T @ p for name, p in self._p.items()}

    def estimate(self, mean: Mapping[str, ArrayLike]) -> dict[str, Floats]:
        """The estimate of the mean update, from the mean of the second sum; the round is over.

        Raises:
          InputError: there was no ``right``, or the mean is of other shapes.
        """
        if not self._p and not self._whole:
            raise InputError("right(mean) comes first")
        found = dict(self._whole)
        sizes = self._matrices()
        q = {name: _checked(name, mean, (sizes[name][1], self.rank)) for name in self._p}
        for name, p in self._p.items():
            if self._memory:
                own = self._own[name]
                self._kept[name] = own - p @ (p.T @ own)
            found[name] = (p @ q[name].T).reshape(self.shapes[name])
            # Of the same directions, so that P is as large as the update, and one clip fits.
            self._q[name] = np.linalg.qr(q[name])[0]
        self._own, self._p, self._whole = {}, {}, {}
        return {name: found[name] for name in self.shapes}

    def _matrices(self) -> dict[str, tuple[int, int]]:
        return {
            name: (shape[0], math.prod(shape[1:])) if shape else (1, 1)
            for name, shape in self.shapes.items()
        }


def _start(seed: bytes, name: str, columns: int, rank: int) -> Floats:
    """Orthogonal columns that no update was made to avoid."""
    drawn = hashlib.shake_128(_LABEL + digest(seed, name.encode())).digest(4 * columns * rank)
    entries = np.frombuffer(drawn, "<i4").astype(np.float64)
    return np.linalg.qr(entries.reshape(columns, rank))[0]


def _checked(name: str, mean: Mapping[str, ArrayLike], shape: tuple[int, ...]) -> Floats:
    if name not in mean:
        raise InputError(f"the mean lacks {name!r}")
    values = np.asarray(mean[name], np.float64)
    if values.shape != shape or not np.isfinite(values).all():
        raise InputError(f"the mean of {name!r} is not finite, or not of shape {shape}")
    return values
