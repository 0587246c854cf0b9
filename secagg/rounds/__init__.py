"""One sum: the server's half, the clients' halves, and all of it in one process.

``relay`` is the server's half for any network and ``parties`` its mirror, the clients'.
``in_memory`` plays whole rounds of them, ``aggregation`` sums updates by such a round, and
``calibration`` finds a clip for them.
``attendance`` is who is there and what it costs, ``burns`` what was answered, ``ckks`` what
the rounds under CKKS share; ``masking`` and ``spool`` are for large sums.
"""

from secagg.rounds.aggregation import Aggregate, Bonawitz, Ckks, Plain, aggregate
from secagg.rounds.burns import BurnFile, MemoryBurn
from secagg.rounds.calibration import ClipReport, calibrate_clip
from secagg.rounds.parties import BonawitzClient, CkksClient, SharedCkksClient

__all__ = [
    "Aggregate",
    "Bonawitz",
    "BonawitzClient",
    "BurnFile",
    "Ckks",
    "CkksClient",
    "ClipReport",
    "MemoryBurn",
    "Plain",
    "SharedCkksClient",
    "aggregate",
    "calibrate_clip",
]
