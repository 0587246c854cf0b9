"""CKKS beside the setting that NVFLARE ships with TenSEAL's vectors.

Encryption to bytes, ns an entry and bytes an entry, over the same 65,536 entries. Theirs
is degree 8192, primes [60, 40, 40], scale 2**40 through ``tenseal.ckks_vector``. The speed
of a machine swings from minute to minute, so each pair is measured in turn, A B A B,
in one process; ``extra_info`` holds the figures.
"""

import itertools
import os
import statistics
import time
from collections.abc import Callable

import numpy as np
import pytest
import tenseal
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

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
from protocols.ckks.seal import Key, PublicKey, context
from protocols.secrets import Secret

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
    corrupt=1,
)


def in_turn(first: Callable[[], bytes], second: Callable[[], bytes]) -> tuple[float, float]:
    """Median seconds of each, measured alternately, after one of each."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for step, kept in itertools.islice(
        itertools.cycle(zip((first, second), seconds, strict=True)), 2 * ROUNDS + 2
    ):
        begin = time.perf_counter()
        step()
        kept.append(time.perf_counter() - begin)
    return statistics.median(seconds[0][1:]), statistics.median(seconds[1][1:])


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
def test_encryption_to_bytes(benchmark: BenchmarkFixture, model: Model) -> None:
    kinds = tenseal.ENCRYPTION_TYPE
    peer = theirs(kinds.SYMMETRIC if model is Model.SHARED_KEY else kinds.ASYMMETRIC)
    ours = shared() if model is Model.SHARED_KEY else threshold()
    slow, fast = in_turn(peer, ours)
    benchmark(ours)
    benchmark.extra_info["times_as_fast"] = round(slow / fast, 2)
    benchmark.extra_info["ns_an_entry"] = round(fast / ENTRIES * 1e9)
    benchmark.extra_info["their_ns_an_entry"] = round(slow / ENTRIES * 1e9)
    benchmark.extra_info["bytes_an_entry"] = round(len(ours()) / ENTRIES, 3)
    benchmark.extra_info["their_bytes_an_entry"] = round(len(peer()) / ENTRIES, 3)


def test_partial_decryption(benchmark: BenchmarkFixture) -> None:
    """One chunk by one holder: decode, smudge, decrypt, encode."""
    public, keys = collective()
    ring = THRESHOLD.ring
    wire = pack_ciphertext(public.encrypt(values()[: ring.degree]), ring)

    def answer() -> bytes:
        noise = gaussian(ring.degree, THRESHOLD.smudging, os.urandom)
        return pack(keys[0].partial(unpack_ciphertext(wire, ring)[1], noise), ring.primes)

    benchmark(answer)
    benchmark.extra_info["ns_an_entry"] = round(benchmark.stats["median"] / ring.degree * 1e9)
    benchmark.extra_info["bytes_an_entry"] = len(answer()) / ring.degree


@pytest.mark.parametrize("model", list(Model), ids=lambda model: model.name)
def test_adding_one_client(benchmark: BenchmarkFixture, model: Model) -> None:
    """One chunk at the server: decode, expand where there is a seed, add."""
    params = SHARED if model is Model.SHARED_KEY else THRESHOLD
    ring, made = params.ring, context(params.ring, params.scale)
    total = np.zeros((2, len(ring.primes), ring.degree), np.uint64)
    wire = (shared() if model is Model.SHARED_KEY else threshold())()[: params.chunk_size]

    def arrive() -> Rows:
        if model is Model.SHARED_KEY:
            return add(total, made.expand(*unpack_seeded(wire, ring)), ring.primes)
        return add(total, unpack_ciphertext(wire, ring), ring.primes)

    benchmark(arrive)
    benchmark.extra_info["ns_an_entry"] = round(benchmark.stats["median"] / ring.degree * 1e9)
