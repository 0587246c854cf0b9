"""Sums under approximate homomorphic encryption, CKKS [CKKS17] on SEAL.

Guarantee: ciphertexts of a sum say nothing to whoever lacks the key, up to the
hardness of Ring-LWE at 128 bits, and an opened, flooded sum says nothing about the key
beyond itself, up to 2**-(s/2) / 6.9 a session [LM21, LMSS22].

| model | who decrypts | holds against |
|---|---|---|
| ``SHARED_KEY`` | every client alone | a server that works with no client |
| ``THRESHOLD`` | ``threshold`` of the holders | honest-but-curious server and fewer holders |

Not protected from, in either: one deviating client or server (a malformed ciphertext, a
single ciphertext shown as the sum), and what the sum says.

``params``, ``residues`` and ``messages`` need numpy only. ``keys``, ``holder``, ``client``
and ``server`` need ``seal``, and that tenseal; import them from where they are. The wire is on
one page: docs/protocols/ckks.md.

[CKKS17]: Cheon, Kim, Kim, Song, https://eprint.iacr.org/2016/421
[LM21]: Li, Micciancio, https://eprint.iacr.org/2020/1533
[LMSS22]: Li, Micciancio, Schultz, Sorrell, https://eprint.iacr.org/2022/816
"""

from protocols.ckks.coefficients import Coefficients
from protocols.ckks.params import Agreement, Engine, Model, Params
from protocols.ckks.planning import plan_parameters
from protocols.ckks.residues import Ring

__all__ = ["Agreement", "Coefficients", "Engine", "Model", "Params", "Ring", "plan_parameters"]
