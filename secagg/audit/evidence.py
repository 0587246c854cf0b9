"""Results of attacks beside what a ledger proves: ``secagg audit --attack-results FILE``.

The file is one JSON object: ``schema``, and ``results`` as ``dp.empirical`` writes them with
``as_dict``. Every epsilon is computed anew, at the ledger's delta, from the counts or the
Gaussians that a result holds. That these were counted in the training that was charged is the
word of whoever brought the file; no ledger can show it.

A bound above the stated epsilon contradicts it, up to the chance of error that the bound
names. An estimate contradicts nothing, and a small number of either kind proves nothing.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import dp
from dp.accounting.events import NeighboringRelation, Unit
from dp.empirical import GAUSSIAN, Estimate, LowerBound, from_json
from secagg.errors import InputError
from secagg.pages.numbers import at_least, short, spaced
from secagg.pages.numbers import bound as as_bound
from secagg.pages.numbers import delta as as_delta

SCHEMA: Final = "secagg attack 1"
_MOST_BYTES: Final = 2**20  # of a file; a result takes about 300
_MOST_RESULTS: Final = 100  # each takes up to about 2 s to compute anew (measured, 2^20 runs)


class Stated(Protocol):
    """What is needed of a section of the audit."""

    @property
    def unit(self) -> Unit: ...
    @property
    def adjacency(self) -> NeighboringRelation: ...
    @property
    def epsilon(self) -> float: ...
    @property
    def total_delta(self) -> float: ...
    @property
    def mechanisms(self) -> frozenset[str]: ...
    @property
    def gaussian(self) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A result at the ledger's delta, and the epsilon that the ledger proves there.

    ``charged``: the mechanisms that the ledger charged for, to hold the result's own against.
    ``gaussian``: everything charged was Gaussian noise without sampling, a Gaussian curve in all.
    """

    found: LowerBound | Estimate
    stated: float
    charged: frozenset[str]
    gaussian: bool

    @property
    def foreign(self) -> bool:
        """Whether the result says that another mechanism was attacked than any charged here."""
        return bool(self.found.mechanism) and self.found.mechanism not in self.charged

    @property
    def contradicts(self) -> bool:
        """Whether it is a bound on this mechanism, and passes what is stated."""
        bound = isinstance(self.found, LowerBound) and self.found.epsilon > self.stated
        return bound and not self.foreign and not self._other_claim

    @property
    def _other_claim(self) -> bool:
        """Whether it is about a Gaussian curve, which the ledger does not claim."""
        of_curve = isinstance(self.found, LowerBound) and self.found.method == GAUSSIAN
        return of_curve and not self.gaussian

    @property
    def sentence(self) -> str:
        """What was measured, labelled; bounds rounded down."""
        found = self.found
        against = f"stated for one {found.unit.value}: {as_bound(self.stated)}"
        where = f"at delta {as_delta(found.delta)}; {self._of} {against}"
        if isinstance(found, Estimate):
            return (
                f"estimate, no bound: epsilon about {short(found.epsilon)} {where} "
                f"(cosines of {found.canaries:,} canaries)"
            )
        comparisons = f", one of {found.comparisons:,} tried" if found.comparisons > 1 else ""
        return (
            f"lower bound: epsilon at least {at_least(found.epsilon)} {where} "
            f"({found.method}{', which this ledger does not claim' if self._other_claim else ''}, "
            f"wrong with probability {short(found.significance)}{comparisons})"
        )

    @property
    def _of(self) -> str:
        """What was attacked, in words."""
        if not self.found.mechanism:
            return "of which mechanism nobody said;"
        name = f"{spaced(self.found.mechanism)} noise"
        if self.foreign:
            here = " and ".join(sorted(map(spaced, self.charged)))
            return f"of {name}, ANOTHER MECHANISM than this ledger's, {here};"
        return f"of {name}, as this ledger's;"

    def as_dict(self) -> dict[str, Any]:
        stated = self.stated if math.isfinite(self.stated) else None
        return self.found.as_dict() | {
            "stated": stated,
            "contradicts": self.contradicts,
            "another_mechanism": self.foreign,
        }


def evidence(results: Iterable[LowerBound | Estimate]) -> dict[str, Any]:
    """The file's object, for ``json.dumps``.

    Args:
      results: bounds and estimates of ``dp.empirical``.
    """
    return {"schema": SCHEMA, "results": [result.as_dict() for result in results]}


def load(path: Path) -> dict[str, Any]:
    """The object in a file, of which nothing but the schema is known.

    Raises ``InputError``: it cannot be read, or is none of ``SCHEMA``.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise InputError(f"{path} is longer than {_MOST_BYTES:,} bytes")
        data = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot read {path}: {error}") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise InputError(f"{path} is no JSON object of schema {SCHEMA!r}")
    return data


def read(path: Path) -> tuple[LowerBound | Estimate, ...]:
    """The results in a file.

    Raises ``InputError``: it cannot be read, is no such file, holds no result, or one whose
    epsilon does not follow from its own numbers.
    """
    data = load(path)
    if not isinstance(results := data.get("results"), list) or not results:
        raise InputError(f"--attack-results {path} holds no results, must have at least 1")
    if len(results) > _MOST_RESULTS:
        raise InputError(
            f"--attack-results {path} holds {len(results):,} results, at most 100 are read"
        )
    try:
        return tuple(map(from_json, results))
    except dp.InputError as error:
        raise InputError(f"--attack-results {path}: {error}") from error


def measured(
    results: Iterable[LowerBound | Estimate], sections: Iterable[Stated]
) -> tuple[Measured, ...]:
    """Each result beside every section of its unit in which that unit is there or not.

    Raises ``InputError`` for a result that no section can be held against.
    """
    sections, beside = tuple(sections), []
    for result in results:
        alike = [
            section
            for section in sections
            if section.unit is result.unit
            and section.adjacency is not NeighboringRelation.REPLACE_ONE
        ]
        if not alike:
            raise InputError(
                f"--attack-results are about one {result.unit.value} that is there or not; the "
                "ledger charged nothing for that, leave them out"
            )
        beside += [
            Measured(
                found=result.at(section.total_delta),
                stated=section.epsilon,
                charged=section.mechanisms,
                gaussian=section.gaussian,
            )
            for section in alike
        ]
    return tuple(beside)
