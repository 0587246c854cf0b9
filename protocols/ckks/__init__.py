"""Sums under homomorphic encryption, after CKKS [CKKS17]: of reals, and of integers exactly.

Guarantee: ciphertexts of a sum say nothing to whoever lacks the key, up to the
hardness of Ring-LWE at 128 bits, and an opened, flooded sum says nothing about the key
beyond itself, up to 2**-(s/2) / 6.9 a session [LM21, LMSS22].

| model | who decrypts | holds against |
|---|---|---|
| ``SHARED_KEY`` | every client alone | a server that works with no client |
| ``THRESHOLD`` | ``threshold`` of the holders | honest-but-curious server and fewer holders |

Not protected from: under a threshold key one deviating client or server, whose one malformed
request opens every upload of the session; under a shared key on SEAL the same, with a published
result; and what the sum says. Under a shared key on coefficients a server can open no other sum
than one of the uploads it names, but clients that publish sums of two sets publish their
difference.

| engine | entries | needs |
|---|---|---|
| ``COEFFICIENTS`` | words of 64 bits, in coefficients modulo 2**64 or 2**72 | numpy |
| ``SEAL`` | reals, in slots modulo primes | tenseal |

The wire is on one page, docs/protocols/ckks.md, and why it holds on
docs/protocols/ckks-security.md.

[CKKS17]: Cheon, Kim, Kim, Song, https://eprint.iacr.org/2016/421
[LM21]: Li, Micciancio, https://eprint.iacr.org/2020/1533
[LMSS22]: Li, Micciancio, Schultz, Sorrell, https://eprint.iacr.org/2022/816
"""

from protocols.ckks.coefficients import Coefficients
from protocols.ckks.params import Agreement, Engine, Model, Params
from protocols.ckks.planning import plan_parameters
from protocols.ckks.residues import Ring

__all__ = ["Agreement", "Coefficients", "Engine", "Model", "Params", "Ring", "plan_parameters"]
