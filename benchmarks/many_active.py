"""CPU seconds of a round against a server that lies, all of its clients played in one process.

    python benchmarks/many_active.py --clients 1000 --entries 1000

Every client checks the same signatures: the keys of all, and those of the quorum. On machines of
their own each does so for itself; here each is checked once, and what it would cost the others is
printed beside. All else runs as it is.
"""

import argparse
import time
from functools import lru_cache

import numpy as np

from protocols.bonawitz import Agreement, Params, Rates, client, messages, server
from protocols.entropy import system
from protocols.primitives import sign
from protocols.primitives.sign import SigningKey
from protocols.secrets import Secret
from protocols.wire import SESSION_SIZE
from secagg.rounds.in_memory import run_bonawitz
from secagg.vectors.packing import word_count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--entries", type=int, default=1000)
    parser.add_argument("--corrupt-fraction", default="0.05")
    parser.add_argument("--dropout", default="0.1")
    given = parser.parse_args()
    once = lru_cache(maxsize=None)(sign.verify)
    for module in (client, server, messages):
        module.verify = once  # type: ignore[attr-defined]  # the name that each has imported
    params = Params(
        clients=given.clients,
        rates=Rates(corrupt_fraction=given.corrupt_fraction, dropout=given.dropout),
        words=word_count(given.entries, 3),
        active=True,
    )
    plan = params.plan(given.clients)
    agreement = Agreement(
        params=params, session=system(SESSION_SIZE), round=0, public_digest=bytes(32)
    )
    words = np.arange(params.words, dtype=np.uint64)
    began = time.process_time()
    outcome = run_bonawitz(
        agreement, dict.fromkeys(range(given.clients), words), now=time.process_time
    )
    spent = time.process_time() - began
    if not np.array_equal(outcome.values, words * np.uint64(given.clients)):
        raise SystemExit("the sum is wrong")
    for stage, cost in outcome.costs.items():
        each = 1e3 * cost.client_seconds / given.clients
        print(
            f"{stage.value:10} a client {each:8.2f} ms  the server {cost.server_seconds:7.2f} s  "
            f"up {cost.bytes_up:,} down {cost.bytes_down:,} bytes"
        )
    hits, checked = once.cache_info().hits, once.cache_info().misses
    print(f"{given.clients:,} clients, {plan.degree} picks, quorum {plan.quorum:,}: {spent:.1f} s")
    print(
        f"{checked:,} signatures checked once; again by others {hits:,} times: {hits * one():.0f} s"
    )


def one() -> float:
    """CPU seconds of one check."""
    key = SigningKey(Secret(bytes(32)))
    signature, began = key.sign(b"label", b"message"), time.process_time()
    for _ in range(200):
        sign.verify(key.public, b"label", b"message", signature)
    return (time.process_time() - began) / 200


if __name__ == "__main__":
    main()
