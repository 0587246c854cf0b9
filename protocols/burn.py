"""What keeps a party from answering twice."""

from typing import Protocol


class Burn(Protocol):
    """A durable set of answered stages, kept where a restored copy of a state cannot roll it back.

    Without such a store, or if it is rolled back, the server can read this party's input
    or a peer's.
    """

    def __call__(self, session: bytes, stage: int, request: bytes) -> bool:
        """Take the place (session, stage) for ``request``, a hash, before the answer leaves.

        Returns:
          True if the place was free, and is now taken on disk, or was taken for
          this very request; False if it was taken for another.
        """
