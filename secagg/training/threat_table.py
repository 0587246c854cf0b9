"""What a run's settings protect from, and what they do not: the threat model, in plain words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from secagg.rounds.ckks import CKKS
from secagg.training.settings import MODES

PRIVATE = tuple(pair for pair in MODES.values() if pair[0] != "none")
SUMMED = ("bonawitz", *CKKS)  # protocols under which sums alone are seen

Rows: TypeAlias = Sequence[tuple[str, str]]
"""From whom or what, and how far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreatTable:
    """The settings that decide, as they are to be printed.

    Attributes:
      protocol: of ``secagg.rounds.aggregation``; one not known there protects like ``plain``.
      noise: where it is; with ``hidden`` a pair that is not known in
        ``secagg.training.settings`` counts as none.
      hidden: the unit that the noise hides.
      threshold: shares that rebuild a secret.
      needed: survivors without whom nothing is released.
      bound: the epsilon and delta that hold.
      uncounted_shares: noise shares that may be known or missing, and so count for nothing.
    """

    protocol: str
    noise: str
    hidden: str
    threshold: str
    needed: str
    bound: str
    uncounted_shares: str = "1"

    @property
    def private(self) -> bool:
        return (self.noise, self.hidden) in PRIVATE

    @property
    def shared(self) -> bool:
        """Whether the noise is in the sum alone."""
        return self.private and self.noise == "distributed"

    @property
    def unit(self) -> str:
        """The unit whose presence is hidden."""
        return "client" if self.hidden == "client" else "example"

    def protects_from(self) -> Rows:
        sums = {"bonawitz": self._masks, "ckks": self._one_key, "threshold-ckks": self._held_key}
        kept = sums.get(self.protocol, list)()
        return [*kept, *(self._noise() if self.private else ())]

    def does_not_protect_from(self) -> Rows:
        return [
            *{
                "bonawitz": self._beyond_masks,
                "ckks": self._beyond_one_key,
                "threshold-ckks": self._beyond_held_key,
            }.get(self.protocol, self._in_the_clear)(),
            (
                "A client that sends nonsense",
                "Inputs are not checked; one client can spoil the model.",
            ),
            *(self._beyond_noise() if self.private else self._without_noise()),
            (
                "Somebody who edits this folder",
                "Digests and the ledger's chain show accidents, not tampering, unless a copy of "
                "the ledger's head is kept elsewhere."
                if self.private
                else "Digests show accidents, not tampering.",
            ),
            (
                "Anything, while it is a simulation",
                "All parties and all secrets of this run lay in the memory of one process.",
            ),
        ]

    def _masks(self) -> Rows:
        t = self.threshold
        return [
            (
                "A curious server",
                "One that follows the protocol and keeps all it sees learns the sum of the "
                f"survivors. With c clients on its side, fewer than {t}, it learns the sum of at "
                f"least {t} - c of the others.",
            ),
            (
                "Curious clients",
                f"Fewer than {t} of them together, without the server, learn nothing beyond the "
                "common model and what is their own.",
            ),
            (
                "Clients that vanish",
                "At any stage. The sum of those whose masked vector arrived is exact; with fewer "
                f"than {self.needed} survivors nothing is released.",
            ),
        ]

    def _beyond_masks(self) -> Rows:
        return [
            (
                f"The server and {self.threshold} clients together",
                "They open the updates of all others"
                + (", each with one share of the noise." if self.shared else "."),
            ),
            (
                "A server that lies",
                "It can show different rosters or survivors to different clients: nobody but the "
                "server vouches for the roster.",
            ),
        ]

    def _one_key(self) -> Rows:
        return [
            (
                "A curious server",
                "One that works with no client learns the flooded sum that the clients publish "
                "and nothing else, up to 2^-20 / 6.9 a round.",
            ),
            self._vanishing("before they send; afterwards nobody needs them"),
        ]

    def _held_key(self) -> Rows:
        return [
            (
                "A curious server",
                "One that follows the protocol, with fewer than a majority of the key's holders on "
                "its side, learns the flooded sum of the survivors.",
            ),
            (
                "Curious clients",
                "Without the server they learn nothing beyond the common model and what is their "
                "own.",
            ),
            self._vanishing("before they send; a holder of the key until the opening of the sum"),
        ]

    def _vanishing(self, when: str) -> tuple[str, str]:
        return (
            "Clients that vanish",
            f"At any time {when}. With fewer than {self.needed} survivors nothing is opened.",
        )

    def _beyond_one_key(self) -> Rows:
        return [
            (
                "The server and one client together",
                "Every client holds the key that opens every upload"
                + (", each with one share of the noise." if self.shared else "."),
            ),
            self._deviating(),
        ]

    def _beyond_held_key(self) -> Rows:
        return [
            (
                "The server and a majority of the holders together",
                "They open the updates of all others"
                + (", each with one share of the noise." if self.shared else "."),
            ),
            self._deviating(),
        ]

    def _deviating(self) -> tuple[str, str]:
        if self.protocol == CKKS[0]:
            return (
                "A server that shows clients different sums",
                "Two published results differ by one client's update, if one sum is of all and the "
                "other of all but one.",
            )
        return (
            "One client or server that deviates",
            "One malformed message, and every update of the round is open to the server.",
        )

    def _in_the_clear(self) -> Rows:
        noisy = ", with the noise already in it" if self.private else ""
        return [("The server", f"It receives every single update in the clear{noisy}.")]

    def _noise(self) -> Rows:
        seen = (
            "From sums or the model, for whoever sees nothing else, the server included"
            if self.shared
            else "From updates, sums or the model, for whoever looks, the server included"
        )
        what, neighbours = (
            ("what one client brought", "one client's update replaced by zeros")
            if self.unit == "client"
            else ("whether one example was used", "one example of one client added or removed")
        )
        return [
            (f"Learning {what}", f"{seen}: bounded by {self.bound}, for {neighbours}."),
            (
                "Spending more than the budget",
                "The ledger writes a release down before it happens, counts it as spent after a "
                "crash, and refuses the one that would pass the budget.",
            ),
        ]

    def _beyond_noise(self) -> Rows:
        if self.unit == "example":
            unit = (
                "Learning about a person with many examples, or about a whole client",
                "The unit is one example, added or removed. For k examples of one person, at one "
                "client or several, epsilon is k times as large and delta grows faster still.",
            )
            public = "how many examples each client has and at which rate it samples them"
        else:
            unit = (
                "Learning that a client took part, or about a person at several clients",
                "Who took part is public; what a client brought is hidden. For a person with data "
                "at k clients epsilon is k times as large and delta grows faster still.",
            )
            public = "with which chance a client brings its update"
        generator = (
            "Whoever can predict or undo the noise",
            "It is integers from a cipher, AES-128 in counter mode, and as good as that. How long "
            "a draw takes depends on what is drawn.",
        )
        shares = (
            f"More than {self.uncounted_shares} of the clients, if they reveal or leave out their "
            "noise",
            "The noise of a sum is made of the survivors' shares. Those that somebody knows hide "
            "nothing from them, and nobody checks that a client added its own.",
        )
        return [
            unit,
            shares if self.shared else generator,
            (
                "Learning what is public by design",
                f"Who took part, who survived, and {public}.",
            ),
        ]

    def _without_noise(self) -> Rows:
        return [
            (
                "What the model gives away",
                "There is no differential privacy: the sum, the model and all that follows from "
                "them may reveal single examples.",
            )
        ]
