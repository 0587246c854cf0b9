"""CKKS beside the setting that NVFLARE ships with TenSEAL's vectors.

Encryption to bytes, ns an entry and bytes an entry, over the same 65,536 entries. Theirs
is degree 8192, primes [60, 40, 40], scale 2**40 through ``tenseal.ckks_vector``. Both are
measured in turn; ``extra_info`` holds the figures. Theirs are TenSEAL's vectors as a user
calls them; that NVFLARE encrypts symmetrically is the first of the two cases.
"""

import os
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import pytest
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

if find_spec("tenseal") is None:
    pytest.skip("no TenSEAL to compare with: pip install '.[bench]'", allow_module_level=True)

import tenseal

from protocols.ckks.microsoft_seal import Key, PublicKey, context
from protocols.ckks.noise import gaussian
from protocols.ckks.params import Model, Params
from protocols.ckks.residues import (
    Ring,
    Rows,
    add,
    pack,
    pack_ciphertext,
    pack_seeded,
    uniform,
    unpack_ciphertext,
    unpack_seeded,
)
from protocols.secrets import Secret
from secagg.bench.measure import Interleaved

Measure = Callable[..., Interleaved]

ENTRIES = 65_536
ROUNDS = 7
HOLDERS = 5
SHARED = Params(
    model=Model.SHARED_KEY,
    clients=100,
    entries=ENTRIES,
    clip=1.0,
    ring=Ring(degree=4096, prime_bits=(60,)),
    scale_half_bits=103,
)
THRESHOLD = Params(
    model=Model.THRESHOLD,
    clients=100,
    entries=ENTRIES,
    clip=1.0,
    ring=Ring(degree=4096, prime_bits=(33, 33), special_bits=40),
    scale_half_bits=115,
    holders=HOLDERS,
    threshold=4,
    max_corrupt=1,
)


def values() -> NDArray[np.float64]:
    return np.random.default_rng(7).uniform(-1, 1, ENTRIES)


def theirs(kind: "tenseal.ENCRYPTION_TYPE") -> Callable[[], bytes]:
    vectors = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS, 8192, -1, [60, 40, 40], encryption_type=kind, n_threads=1
    )
    vectors.global_scale = 2**40
    chunks = values().reshape(-1, 4096)  # as many as a ciphertext of theirs has slots

    def encrypt() -> bytes:
        return b"".join(tenseal.ckks_vector(vectors, chunk).serialize() for chunk in chunks)

    return encrypt


def shared() -> Callable[[], bytes]:
    key = Key(context(SHARED.ring, SHARED.scale), Secret(os.urandom(32)), b"bench")
    chunks = values().reshape(-1, SHARED.ring.degree)

    def encrypt() -> bytes:
        return b"".join(pack_seeded(*key.encrypt(chunk), SHARED.ring) for chunk in chunks)

    return encrypt


def collective() -> tuple[PublicKey, list[Key]]:
    made = context(THRESHOLD.ring, THRESHOLD.scale)
    ring = THRESHOLD.ring
    keys = [Key(made, Secret(os.urandom(32)), b"bench") for _ in range(HOLDERS)]
    common = uniform(os.urandom(32), b"bench", ring.degree, ring.key_primes)
    total: Rows = np.zeros_like(common)
    for key in keys:
        total = add(total, key.public_share(common), ring.key_primes)
    return PublicKey(made, total, common), keys


def threshold() -> Callable[[], bytes]:
    public, _ = collective()
    chunks = values().reshape(-1, THRESHOLD.ring.degree)

    def encrypt() -> bytes:
        return b"".join(pack_ciphertext(public.encrypt(chunk), THRESHOLD.ring) for chunk in chunks)

    return encrypt


@pytest.mark.parametrize("model", list(Model), ids=lambda model: model.name)
def test_encryption_to_bytes(
    interleaved: Measure, benchmark: BenchmarkFixture, model: Model
) -> None:
    kinds = tenseal.ENCRYPTION_TYPE
    peer = theirs(kinds.SYMMETRIC if model is Model.SHARED_KEY else kinds.ASYMMETRIC)
    ours = shared() if model is Model.SHARED_KEY else threshold()
    sizes = {"ours": len(ours()), "theirs": len(peer())}
    found = interleaved(
        {"ours": ours, "theirs": peer}, "ours", beside="numpy", rounds=ROUNDS, sizes=sizes
    )
    benchmark.extra_info["times_as_fast"] = found.ratio("theirs", "ours").as_dict()
    for name, size in sizes.items():
        benchmark.extra_info[f"{name}_ns_an_entry"] = round(found.median(name) / ENTRIES * 1e9)
        benchmark.extra_info[f"{name}_bytes_an_entry"] = round(size / ENTRIES, 3)


def test_partial_decryption(interleaved: Measure, benchmark: BenchmarkFixture) -> None:
    """One chunk by one holder: decode, flood, decrypt, encode."""
    public, keys = collective()
    ring = THRESHOLD.ring
    wire = pack_ciphertext(public.encrypt(values()[: ring.degree]), ring)

    def answer() -> bytes:
        noise = gaussian(ring.degree, THRESHOLD.flooding_stddev, os.urandom)
        return pack(keys[0].partial(unpack_ciphertext(wire, ring)[1], noise), ring.primes)

    found = interleaved({"answer": answer}, "answer", beside="aes", sizes={"up": len(answer())})
    benchmark.extra_info["ns_an_entry"] = round(found.median("answer") / ring.degree * 1e9)


@pytest.mark.parametrize("model", list(Model), ids=lambda model: model.name)
def test_adding_one_client(interleaved: Measure, benchmark: BenchmarkFixture, model: Model) -> None:
    """One chunk at the server: decode, expand where there is a seed, add."""
    params = SHARED if model is Model.SHARED_KEY else THRESHOLD
    ring, made = params.ring, context(params.ring, params.scale)
    total = np.zeros((2, len(ring.primes), ring.degree), np.uint64)
    wire = (shared() if model is Model.SHARED_KEY else threshold())()[: params.chunk_size]

    def arrive() -> Rows:
        if model is Model.SHARED_KEY:
            return add(total, made.expand(*unpack_seeded(wire, ring)), ring.primes)
        return add(total, unpack_ciphertext(wire, ring), ring.primes)

    found = interleaved({"add": arrive}, "add", beside="numpy", sizes={"up": len(wire)})
    benchmark.extra_info["ns_an_entry"] = round(found.median("add") / ring.degree * 1e9)
