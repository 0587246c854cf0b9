"""What every round under CKKS needs: the protocols' names, their defaults, and tenseal for SEAL.

| protocol | who opens the sum | what a client sends |
|---|---|---|
| ``ckks`` | every client, with the one key that all share; the server cannot | one upload |
| ``threshold-ckks`` | the server, with ``threshold`` of the holders | one upload; a holder more |

Sums of reals are approximate: ``protocols.ckks.params`` predicts the error. Sums of integers are
exact, but on SEAL. Every round makes its own key.
"""

from typing import Final

import secagg.extras
from protocols.ckks import Engine, Model

MODELS: Final = {"ckks": Model.SHARED_KEY, "threshold-ckks": Model.THRESHOLD}
CKKS: Final = tuple(MODELS)
HOLDERS: Final = 5  # of a threshold key: four of them open a sum, and one may be lost
FLOODING: Final = 40  # bits; what an opened sum says about the key, see protocols.ckks
PRECISION: Final = 2.0**-14  # of the clip: the largest error of a mean to expect, no bound


def require(engine: Engine) -> None:
    """Raise ``MissingExtraError`` if an engine needs tenseal and it is not installed."""
    if engine is Engine.SEAL:
        secagg.extras.require("Ckks(engine=Engine.SEAL)", "tenseal", extra="ckks")
