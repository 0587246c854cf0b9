"""One sum: the server's half, the clients' halves, and all of it in one process.

``in_memory`` and ``ckks`` play whole rounds, ``relay`` is the server's half for any network,
``attendance`` who is there and what it costs, ``burns`` what was answered, ``masking`` and
``spool`` are for large sums.
"""

from secagg.rounds.burns import BurnFile, MemoryBurn
from secagg.rounds.in_memory import Aggregate, aggregate, run_bonawitz, run_plain

__all__ = [
    "Aggregate",
    "BurnFile",
    "MemoryBurn",
    "aggregate",
    "run_bonawitz",
    "run_plain",
]
