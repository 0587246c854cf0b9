"""CKKS beside the setting that NVFLARE ships with TenSEAL's vectors.

Encryption to bytes, ns an entry and bytes an entry, over the same 65,536 entries. Theirs
is degree 8192, primes [60, 40, 40], scale 2**40 through ``tenseal.ckks_vector``. All are
measured in turn; ``extra_info`` holds the figures. Theirs are TenSEAL's vectors as a user
calls them; that NVFLARE encrypts symmetrically is the first of the two cases.

Ours are planned for a session of ``ROUNDS_OF_A_KEY`` sums of 100 clients: on coefficients a key
of 9 polynomials a holder pays then. One sum a key has 2, and 7.5 bytes an entry.
"""

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec

import numpy as np
import pytest
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

if find_spec("tenseal") is None:
    pytest.skip("no TenSEAL to compare with: pip install '.[bench]'", allow_module_level=True)

import tenseal

from protocols.ckks import Agreement, Engine, Model, Params, plan_parameters
from protocols.ckks.engine import Sums
from protocols.ckks.keys import SharedKey, arithmetic
from protocols.entropy import system
from protocols.secrets import Secret
from protocols.wire import SESSION_SIZE
from secagg.bench.measure import Interleaved

Measure = Callable[..., Interleaved]

ENTRIES = 65_536
ROUNDS = 7
HOLDERS = 5
ROUNDS_OF_A_KEY = 10


@cache
def agreed(model: Model, engine: Engine) -> Agreement:
    params = plan_parameters(
        model=model,
        engine=engine,
        clients=100,
        entries=ENTRIES,
        clip=1.0,
        precision=2.0**-14,
        decryptions=ROUNDS_OF_A_KEY if engine is Engine.COEFFICIENTS else 1,
        holders=HOLDERS if model is Model.THRESHOLD else 0,
    )
    return Agreement(params=params, session=system(SESSION_SIZE), public_digest=bytes(32))


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


def split(params: Params) -> list[tuple[int, NDArray[np.float64]]]:
    each, vector = params.chunk_entries, values()
    return [(at, vector[at * each : (at + 1) * each]) for at in range(params.chunks)]


def ours(model: Model, engine: Engine) -> Callable[[], bytes]:
    agreement = agreed(model, engine)
    if model is Model.SHARED_KEY:
        work = SharedKey(agreement, Secret(system(32))).encrypting(agreement, 1, system)
    else:
        made = arithmetic(agreement)
        shares = {
            holder: made.public_share(holder, Secret(system(32)), Secret(system(32)))
            for holder in range(HOLDERS)
        }
        work = made.encrypt_for_all(agreement, 1, made.total(shares), system)
    chunks = split(agreement.params)
    return lambda: b"".join(map(work, chunks))


@pytest.mark.parametrize("model", list(Model), ids=lambda model: model.name)
def test_encryption_to_bytes(
    interleaved: Measure, benchmark: BenchmarkFixture, model: Model
) -> None:
    kinds = tenseal.ENCRYPTION_TYPE
    peer = theirs(kinds.SYMMETRIC if model is Model.SHARED_KEY else kinds.ASYMMETRIC)
    tasks = {
        "ours": ours(model, Engine.COEFFICIENTS),
        "seal": ours(model, Engine.SEAL),
        "theirs": peer,
    }
    sizes = {name: len(task()) for name, task in tasks.items()}
    found = interleaved(tasks, "ours", beside="numpy", rounds=ROUNDS, sizes=sizes)
    for name in ("ours", "seal"):
        benchmark.extra_info[f"{name}_times_as_fast"] = found.ratio("theirs", name).as_dict()
    for name, size in sizes.items():
        benchmark.extra_info[f"{name}_ns_an_entry"] = round(found.median(name) / ENTRIES * 1e9, 1)
        benchmark.extra_info[f"{name}_bytes_an_entry"] = round(size / ENTRIES, 3)


@pytest.mark.parametrize("engine", list(Engine), ids=lambda engine: engine.name)
def test_partial_decryption(
    interleaved: Measure, benchmark: BenchmarkFixture, engine: Engine
) -> None:
    """One ciphertext by one holder: decode, flood, decrypt, encode."""
    agreement = agreed(Model.THRESHOLD, engine)
    upload, params = ours(Model.THRESHOLD, engine)(), agreement.params
    made = arithmetic(agreement)
    sums = made.sums()
    sums.add(0, sums.read(0, memoryview(upload)[: params.chunk_size()]))
    second = sums.second(0)
    work = made.part(1, Secret(system(32)), Secret(system(32)), b"bench")

    def answer() -> bytes:
        return work((0, second))

    found = interleaved({"answer": answer}, "answer", beside="aes", sizes={"up": len(answer())})
    entries = params.entries_of(0)
    benchmark.extra_info["ns_an_entry"] = round(found.median("answer") / entries * 1e9, 1)


@pytest.mark.parametrize("engine", list(Engine), ids=lambda engine: engine.name)
@pytest.mark.parametrize("model", list(Model), ids=lambda model: model.name)
def test_adding_one_client(
    interleaved: Measure, benchmark: BenchmarkFixture, model: Model, engine: Engine
) -> None:
    """One ciphertext at the server: decode, on SEAL expand where there is a seed, add."""
    agreement = agreed(model, engine)
    params, sums = agreement.params, arithmetic(agreement).sums()
    wire = memoryview(ours(model, engine)())[: params.chunk_size()]

    def arrive() -> Sums:
        sums.add(0, sums.read(0, wire))
        return sums

    found = interleaved({"add": arrive}, "add", beside="numpy", sizes={"up": len(wire)})
    entries = params.entries_of(0)
    benchmark.extra_info["ns_an_entry"] = round(found.median("add") / entries * 1e9, 1)
