"""Rings of clients that have finished training, and the sums that they become.

    buffer = Buffer(size=10)
    buffer.publish(model_digest(model))
    version = buffer.start(node)                        # it trains on that, at its own pace
    ...
    if not buffer.ring(node, version): ...              # too far behind: start it anew
    while session := buffer.take(patient=not late):     # late: no sum for longer than you like
        under_way = coordinator.begin("train", list(session.nodes), shapes=shapes, session=session)
        ...                                             # as ever; then the newest model moves by
        session.factor * finished.model_update          # and is published

No clock and no network: whoever drives it decides when to look, and when to be patient no more.
Then nothing waits for a client that still trains: a sum is of those who have rung. A client takes
part as often as it rings, and where there is noise each time is charged, in every book, as if no
client were sampled.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from secagg.errors import InputError
from secagg.nodes.versions import DIGEST_SIZE, LEAST_SAME, Versions

NodeId: TypeAlias = int


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """The nodes of one sum, and what each trained on.

    Attributes:
      nodes: the number of each one's version, in the order in which they rang.
      digests: of versions, by number; the largest number is the newest.
      weights, minimum_same: as in ``Versions``; ``None``: all trained on one version.
    """

    nodes: Mapping[NodeId, int]
    digests: Mapping[int, bytes]
    weights: tuple[int, ...]
    minimum_same: int | None

    @property
    def model_digest(self) -> bytes:
        """The digest of the model of the sum: of the one version, or of the newest."""
        return self.digests[next(iter(self.nodes.values())) if self.alike else max(self.digests)]

    @property
    def alike(self) -> bool:
        """Whether the proposal says one model, as that of any sum."""
        return self.minimum_same is None

    @property
    def factor(self) -> float:
        """What the mean counts: less than 1 if all are of one version that is not the newest."""
        if not self.alike:
            return 1.0  # each update was weighed in the sum
        behind = max(self.digests) - next(iter(self.nodes.values()))
        return self.weights[behind] / self.weights[0]

    def versions(self, numbers: Mapping[NodeId, int]) -> Versions | None:
        """What the proposal says, with the number of each node as a client."""
        if self.minimum_same is None:
            return None
        clients = sorted((numbers[node], version) for node, version in self.nodes.items())
        used = {*self.nodes.values(), max(self.digests)}
        return Versions(
            digests=tuple((number, self.digests[number]) for number in sorted(used)),
            clients=tuple(clients),
            weights=self.weights,
            minimum_same=self.minimum_same,
        )


class Buffer:
    """Rings that wait, and the versions of the model. Not for threads.

    Args:
      size: rings that make a sum, K; it has more where more of a version have rung, never fewer.
      weights: what an update counts that is 0, 1, ... versions behind the newest; one that is
        further behind is not taken.
      minimum_same: fewest nodes of one version in a sum, where versions are mixed. ``None``:
        a sum is of one version.

    Raises:
      InputError: a number out of range.
    """

    def __init__(
        self, *, size: int, weights: tuple[int, ...] = (1,), minimum_same: int | None = None
    ) -> None:
        if type(size) is not int or size < LEAST_SAME:
            raise InputError(f"size {size!r} must be an integer from {LEAST_SAME}")
        Versions(  # whose checks are ours
            digests=((0, bytes(DIGEST_SIZE)),),
            clients=tuple((client, 0) for client in range(size)),
            weights=weights,
            minimum_same=size if minimum_same is None else minimum_same,
        )
        self._size, self._weights, self._same = size, weights, minimum_same
        self._digests: dict[int, bytes] = {}
        self._next = 0
        self._waiting: dict[NodeId, int] = {}  # in the order in which they rang
        self._training: dict[NodeId, int] = {}

    @property
    def waiting(self) -> Mapping[NodeId, int]:
        """The version of each node that has rung and is in no sum yet."""
        return dict(self._waiting)

    @property
    def newest(self) -> int:
        """The number of the newest version.

        Raises:
          InputError: none was published.
        """
        if not self._next:
            raise InputError("no version was published yet")
        return self._next - 1

    def publish(self, digest: bytes) -> int:
        """A new version, and its number. Rings too far behind it are dropped."""
        if len(digest) != DIGEST_SIZE:
            raise InputError(f"a version's digest must have {DIGEST_SIZE} bytes")
        number = self._next
        self._digests[number] = digest
        self._next += 1
        self._digests.pop(number - len(self._weights), None)
        self._waiting = {n: v for n, v in self._waiting.items() if v in self._digests}
        self._training = {n: v for n, v in self._training.items() if v in self._digests}
        return number

    def start(self, node: NodeId) -> int:
        """The version that ``node`` is handed to train on, the newest."""
        self._training[node] = self.newest
        return self.newest

    def forget(self, node: NodeId) -> None:
        """Expect no ring of ``node``, which is gone."""
        self._training.pop(node, None)
        self._waiting.pop(node, None)

    def ring(self, node: NodeId, version: int) -> bool:
        """Whether ``node``, which has trained on ``version``, now waits for a sum.

        ``False``: that version is too far behind. A node that rings again waits with the later.

        Raises:
          InputError: there is no such version.
        """
        if type(version) is not int or not 0 <= version < self._next:
            raise InputError(f"there is no version {version!r:.20} of the model")
        self.forget(node)
        if version not in self._digests:
            return False
        self._waiting[node] = version
        return True

    def take(self, *, patient: bool = False) -> Session | None:
        """The nodes of the next sum, which wait no more; ``None``: too few have rung.

        Oldest versions first, as they are dropped first. A node whose sum failed rings again.

        Args:
          patient: leave a version alone while nodes still train on it that are too few for a sum
            without those that wait. Otherwise the slowest would train in vain, again and again.
        """
        groups = defaultdict[int, list[NodeId]](list)
        for node, version in self._waiting.items():
            groups[version].append(node)
        left = Counter(self._training.values())
        least = self._size if self._same is None else self._same
        chosen = set[NodeId]()
        for version in sorted(groups):
            stranded = patient and 0 < left[version] < least
            if len(groups[version]) >= least and not stranded and len(chosen) < self._size:
                chosen.update(groups[version])
        if len(chosen) < self._size:
            return None
        nodes = {node: version for node, version in self._waiting.items() if node in chosen}
        self._waiting = {n: v for n, v in self._waiting.items() if n not in chosen}
        return Session(
            nodes=nodes,
            digests=dict(self._digests),
            weights=self._weights,
            minimum_same=self._same,
        )
