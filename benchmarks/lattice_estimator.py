"""What lattice attacks cost against the rings of ``protocols.ckks``, by Albrecht's estimator.

The estimator [APS15] is a program of its own and no dependency: it needs Sage and is found on
PYTHONPATH. Run where both are, ``pip install passagemath-standard`` being enough of Sage:

    git clone https://github.com/malb/lattice-estimator
    PYTHONPATH=lattice-estimator python benchmarks/lattice_estimator.py

A number is log2 of the operations of the cheapest attack of its kind: uSVP and BDD decode the
primal lattice, the third column is the hybrid attack on the dual one. The secret is ternary, the
deviation of an error that of a centred binomial of 21 bits, the samples those of ``samples`` ring
elements, N of each. Output: docs/protocols/ckks-security.md.

[APS15]: Albrecht, Player, Scott, https://eprint.iacr.org/2015/046
"""

import math
from collections.abc import Callable
from typing import Final

from estimator import LWE, ND, RC

ERROR: Final = math.sqrt(21 / 2)
RINGS: Final = (
    ("two limbs of 32 bits", 4096, 64),
    ("three limbs of 24 bits", 4096, 72),
    ("SEAL: primes 31 + 30, special 40", 4096, 101),
    ("SEAL: primes 33 + 33, special 40", 4096, 106),
    ("SEAL: one prime of 39, unflooded", 2048, 39),
)
SAMPLES: Final = (2, 17)  # an upload of L polynomials is L + 1 samples of its u, L at most 16
MODELS: Final = (RC.MATZOV, RC.BDGL16, RC.ADPS16)  # the last is the core-SVP count


def cost(attack: Callable[..., dict[str, float]], ring: object, model: object) -> float:
    """log2 of the operations of an attack."""
    return math.log2(attack(ring, red_cost_model=model)["rop"])


def main() -> None:
    """Print one line for each ring, number of samples and cost of lattice reduction."""
    print(f"{'ring':34}{'N':>5}{'log2 q':>7}{'m':>5}  {'model':8}{'uSVP':>7}{'BDD':>7}{'dual':>7}")
    for name, degree, bits in RINGS:
        for samples in SAMPLES:
            ring = LWE.Parameters(
                n=degree,
                q=2**bits,
                Xs=ND.UniformMod(3),
                Xe=ND.DiscreteGaussian(ERROR),
                m=samples * degree,
            )
            for model in MODELS:
                found = [
                    cost(attack, ring, model)
                    for attack in (LWE.primal_usvp, LWE.primal_bdd, LWE.dual_hybrid)
                ]
                print(
                    f"{name:34}{degree:5}{bits:7}{samples:3} N  {model.__name__:8}"
                    + "".join(f"{each:7.1f}" for each in found),
                    flush=True,
                )


if __name__ == "__main__":
    main()
