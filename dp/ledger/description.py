"""What the keeper of a ledger states about the system around it, for an audit to repeat.

An epsilon alone says little: NIST SP 800-226 asks what one unit is, who is trusted, what
is released and what is left out. None of this can be computed from a ledger, so it is
stated once, in the chain like all else, and a report says who said it. What is stated of a
matter in ``MATTERS`` is optional; a report names those of which nobody stated anything.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Self

from dp.accounting.accountant import ReportedDelta, flooding_epsilon, reported_delta
from dp.accounting.events import MAX_STEPS
from dp.checks import freeze_floats, integer
from dp.errors import InputError

_LONGEST: Final = 4096  # characters of one text
# By field, what a report calls it: of what the ledger is, and what surrounds an epsilon.
MATTERS: Final[Mapping[str, str]] = {
    "purpose": "What the ledger is of",
    "organisation": "Who answers for it",
    "data_set": "Data set",
    "data_digest": "Digest of the data set",
    "parties": "Where the parties ran",
    "utility": "Utility",
    "bias": "Bias",
    "access_control": "Access control",
    "data_collection": "Data collection",
    "side_channels": "Side channels",
    "intermediate_models": "Who sees intermediate models",
    "tuning": "Tuning on the same data",
}
_TEXTS: Final = ("mechanism", "sampling", "scope", "randomness", "floating_point")
_DIGEST: Final = re.compile("[0-9a-f]{64}")
_LISTS: Final = ("trusted", "released", "unaccounted", "assumptions")


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemDescription:
    """All texts are one printable line, not blank; a tuple may be empty, and then says "none".

    Attributes:
      unit_count: how many units there are, N; a delta of 1/N or more is refused.
      mechanism: what adds the noise.
      sampling: how batches are drawn, with the evidence for it.
      trusted: who is trusted, with what.
      released: what leaves under the events of the ledger.
      unaccounted: what is public, or leaves and is not accounted for.
      scope: which releases the composition covers.
      randomness: where noise and batches come from.
      floating_point: what is computed in floats, and what that may leak.
      assumptions: computational ones, named and not added to delta.
      sparse_graph: sums are masked over a random graph of neighbours, 2^-40 a round.
      rounded_sums: sums are rounded once and never redrawn, 2^-60 a step.
      flooding_bits: s of flooded decryptions, ``None`` where there are none; every round is
        taken to have a key of its own, of which there can be no more.
      sampler_error: total-variation distance of one drawn entry from the exact law.
      entries: how many are drawn a step with that error.
      purpose: what the releases are for: the name of a study, of a model.
      organisation: who keeps the ledger and answers for what it says.
      data_set: the name of the data whose units are protected.
      data_digest: SHA-256 of that data as its holder hashes it, 64 hex digits.
      parties: on whose machines clients and server ran; all in one process is a simulation.
      utility: how good what is released is, and how that was measured.
      bias: how that differs between groups of people.
      access_control: who can read raw data, ledger and model.
      data_collection: how the data were collected, and who saw them then.
      side_channels: what time, memory and traffic may show.
      intermediate_models: who sees the models of rounds before the last.
      tuning: what else was computed on the same data to choose settings.

    The last twelve may be left empty: nobody stated them then.
    """

    unit_count: int
    mechanism: str
    sampling: str
    trusted: tuple[str, ...]
    released: tuple[str, ...]
    unaccounted: tuple[str, ...]
    scope: str
    randomness: str
    floating_point: str
    assumptions: tuple[str, ...]
    sparse_graph: bool = False
    rounded_sums: bool = False
    flooding_bits: int | None = None
    sampler_error: float = 0.0
    entries: int = 0
    purpose: str = ""
    organisation: str = ""
    data_set: str = ""
    data_digest: str = ""
    parties: str = ""
    utility: str = ""
    bias: str = ""
    access_control: str = ""
    data_collection: str = ""
    side_channels: str = ""
    intermediate_models: str = ""
    tuning: str = ""

    def __post_init__(self) -> None:
        for name in _TEXTS:
            _check_line(name, getattr(self, name))
        for name in MATTERS:
            if getattr(self, name) != "":
                _check_line(name, getattr(self, name))
        if self.data_digest and not _DIGEST.fullmatch(self.data_digest):
            raise InputError(
                f"data_digest is {self.data_digest!r:.80}, must be 64 lower-case hex digits"
            )
        for name in _LISTS:
            if not isinstance(lines := getattr(self, name), tuple):
                raise InputError(f"{name} is {lines!r:.80}, must be a tuple of texts")
            for line in lines:
                _check_line(name, line)
        for name in ("sparse_graph", "rounded_sums"):
            if type(value := getattr(self, name)) is not bool:
                raise InputError(f"{name} is {value!r:.80}, must be True or False")
        for name, least in (("unit_count", 1), ("entries", 0), ("flooding_bits", 30)):
            value = getattr(self, name)
            if value is None and name == "flooding_bits":
                continue
            integer(name, value, least, MAX_STEPS)
        freeze_floats(self, "sampler_error", zero=True)
        if self.sampler_error and not self.entries:
            raise InputError("entries is 0, must be given beside sampler_error")

    def epsilon_added(self, epsilon: float, *, rounds: int) -> float:
        """What flooded decryptions add to an epsilon after so many rounds."""
        if self.flooding_bits is None or not rounds:
            return 0.0
        return flooding_epsilon(self.flooding_bits, rounds, epsilon)

    def delta(self, accountant: float, *, epsilon: float, rounds: int, steps: int) -> ReportedDelta:
        """The delta of the whole system after so many rounds and steps, part by part.

        ``epsilon`` is the one it stands beside. Raises ``InputError`` for a total of
        1 / ``unit_count`` or more.
        """
        return reported_delta(
            accountant=accountant,
            epsilon=epsilon,
            units=self.unit_count,
            sparse_rounds=rounds if self.sparse_graph else 0,
            rounded_steps=steps if self.rounded_sums else 0,
            flooding_bits=self.flooding_bits,
            flooded_keys=rounds,
            # At least 2048 entries to a ciphertext; ``entries`` counts every client's.
            flooded_ciphertexts=rounds * max(1, -(-self.entries // 2048)),
            sampler_error=self.sampler_error,
            sampler_draws=steps * self.entries,
        )

    def to_json(self) -> dict[str, Any]:
        """Every field by its name, tuples as lists: what ``json.dumps`` takes.

        A matter of which nothing is stated is left out.
        """
        data = {item.name: getattr(self, item.name) for item in fields(self)}
        data = {name: said for name, said in data.items() if said != "" or name not in MATTERS}
        return data | {name: list(data[name]) for name in _LISTS}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The statement whose ``to_json()`` is ``data``; anything else is an ``InputError``."""
        names = {item.name for item in fields(cls)} - MATTERS.keys()
        if not isinstance(data, Mapping) or data.keys() - MATTERS.keys() != names:
            raise InputError(
                f"data must have the fields {', '.join(sorted(names))}, and of "
                f"{', '.join(sorted(MATTERS))} those that are stated"
            )
        if blank := [name for name in MATTERS if data.get(name) == ""]:
            raise InputError(f"{blank[0]} is empty; leave it out")
        values = dict(data)
        for name in _LISTS:
            if not isinstance(values[name], list):
                raise InputError(f"{name} is {values[name]!r:.80}, must be a list of texts")
            values[name] = tuple(values[name])
        if type(values["sampler_error"]) is not float:
            raise InputError(f"sampler_error is {values['sampler_error']!r:.80}, must be a float")
        return cls(**values)


def _check_line(name: str, text: str) -> None:
    if not (
        isinstance(text, str) and len(text) <= _LONGEST and text.isprintable() and text.strip()
    ):
        raise InputError(
            f"{name} is {text!r:.80}, must be a line of 1 to {_LONGEST} printable characters"
        )
