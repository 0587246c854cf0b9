"""What a ledger is asked and what it answers, in values."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple
from unicodedata import is_normalized

from dp.accounting.accountant import check_delta
from dp.accounting.events import Event
from dp.checks import freeze_floats, integer
from dp.errors import InputError
from dp.ledger.records import Charge, Head

_LONGEST_SUBJECT: Final = 256  # characters
_LARGEST: Final = 2**63 - 1  # SQLite's integer


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What one subject may lose in each book: (epsilon, delta), epsilon > 0 and 0 < delta < 1.

    Attributes:
      epsilon: above 0, over all releases.
      delta: above 0 and below 1.
    """

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        check_delta(self.delta)
        freeze_floats(self, "epsilon", "delta")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSigner:
    """A key for the ledger's head, from outside: this package holds no cryptography.

    Attributes:
      verify: (message, signature) -> ``True`` where the signature is good, anything else not.
      sign: message -> signature, Ed25519 for one; ``None`` for who only reads.
    """

    verify: Callable[[bytes, bytes], bool] = field(repr=False)
    sign: Callable[[bytes], bytes] | None = field(default=None, repr=False)


class LedgerOwner(Enum):
    """The owner of a ledger, whose word lowers a price."""

    SERVER = "server"
    CLIENT = "client"


class Protection(Enum):
    """What stood against tampering when a ledger was verified. See the module's table."""

    NONE = "none"
    HEAD = "head kept elsewhere"
    SIGNATURE = "signed head"
    UNCHECKED = "signed, not checked"

    @property
    def sentence(self) -> str:
        """The protection in words, for a report."""
        return {
            Protection.NONE: "not tamper-evident: the chain shows accidents only",
            Protection.HEAD: "nothing was changed or lost up to the head that was given, if that "
            "was kept elsewhere",
            Protection.SIGNATURE: "nothing was changed or lost by anyone without the key. It may "
            "still be an older copy of the whole file",
            Protection.UNCHECKED: "signed, not checked: no key was given, and unchecked a "
            "signature shows nothing. Ask its keeper for the public key",
        }[self]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """Result of ``verify``: the last record, and the kinds of tampering that were looked for.

    Attributes:
      head: the last record.
      protection: what stood against tampering.
      kept: with a head given, the record that it is of; it shows nothing of those after.
      signed_from: with a signed head, the first record that was signed when it was written.
        Those before are as they were at that time; who wrote them is not shown.
    """

    head: Head
    protection: tuple[Protection, ...]
    kept: int | None = None
    signed_from: int | None = None


class State(Enum):
    """The state of a reservation. ``OPEN`` and ``COMMITTED`` are spent, ``ABORTED`` is not."""

    OPEN = "open"
    COMMITTED = "committed"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """One charge of one subject, under the key (round, subject, attempt).

    Attributes:
      round, attempt: what the release is found by, beside its subject.
      subject: who is charged.
      state: reserved, committed or aborted.
      charge: what was reserved.
      minimum_survivors: below so many, the release does not happen and no commit does.
      survivors: how many there were, if the commit said so.
      actual: what was released instead, ``None`` while that is what was reserved.
    """

    round: int
    subject: str
    attempt: int
    charge: Charge
    minimum_survivors: int
    state: State
    survivors: int | None
    actual: Charge | None


def number(name: str, value: int) -> int:
    """An integer from 0 on that SQLite holds, or ``InputError``."""
    return integer(name, value, 0, _LARGEST)


class Key(NamedTuple):
    """What the reservations of one call are found by, beside their subjects.

    Attributes:
      round: number of the release, from 0.
      attempt: which try of it.
    """

    round: int
    attempt: int


def key_of(round_number: int, attempt: int) -> Key:
    """A key that SQLite holds, or ``InputError``."""
    return Key(number("round", round_number), number("attempt", attempt))


def subject_name(name: str) -> str:
    """The name of a subject, or ``InputError``."""
    if not (isinstance(name, str) and 0 < len(name) <= _LONGEST_SUBJECT and name.isprintable()):
        raise InputError(f"subject is {name!r:.80}, must be 1 to 256 printable characters")
    # Two spellings that print alike would have a budget each.
    if name != name.strip():
        raise InputError(f"subject {name!r:.80} begins or ends with a blank")
    if not is_normalized("NFC", name):
        raise InputError(f"subject {name!a:.80} is not in Unicode's NFC; normalize it")
    return name


def subject_names(subjects: Iterable[str]) -> list[str]:
    """Names, each once, in the order given."""
    if isinstance(subjects, str):
        raise InputError(f"subjects is the text {subjects!r}, must be a collection of names")
    return list(dict.fromkeys(subject_name(subject) for subject in subjects))


def charges_of(charges: Mapping[str, Event | Charge]) -> dict[str, Charge]:
    """Charges by name; a plain event is charged to both books."""
    return {
        subject_name(subject): (
            charge if isinstance(charge, Charge) else Charge(server=charge, release=charge)
        )
        for subject, charge in charges.items()
    }
