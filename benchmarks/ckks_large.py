"""A sum on coefficients of 124 million entries, run whole: seconds, bytes, and the server's memory.

    python benchmarks/ckks_large.py [ENTRIES] [CLIENTS]

A threshold key of five holders, all parties in turn in one process. A client's vector is drawn
chunk by chunk from its number, so that none is ever held; frames go to the server as they are
made. The sum is exact: every entry is compared with the sum of the integers that went in.
Memory is what tracemalloc sees of the server, sum, upload and parts; it doubles the seconds, so
they are of a second run without.
"""

import json
import sys
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np

from protocols.ckks import Agreement, Model, Params, plan_parameters
from protocols.ckks.client import AwaitOpenings, AwaitRoster, generate
from protocols.ckks.keys import CollectiveKey
from protocols.ckks.messages import Frame
from protocols.ckks.server import CollectCommitments, CollectUploads
from protocols.entropy import system
from protocols.testing import BurnInMemory

HOLDERS = 5
BITS = 12  # of an integer: clients sum modulo 2**12


def vector(client: int, index: int, count: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Entries of one chunk of a client's vector, integers below 2**BITS."""
    start = np.uint64((client * 1_000_003 + index * 7_919) % 2**32)
    mixed = (np.arange(count, dtype=np.uint64) + start) * np.uint64(0x9E3779B97F4A7C15)
    return mixed >> np.uint64(64 - BITS)


def frames(agreement: Agreement, key: CollectiveKey, client: int) -> Iterator[bytes]:
    params, name = agreement.params, key.context(agreement)
    work, encoding = key.encrypting(agreement, client, system), agreement.params.encoding
    for index in range(params.chunks):
        words = encoding.encode_integers(vector(client, index, params.entries_of(index)), BITS)
        yield Frame(
            header=agreement.header,
            sender=client,
            index=index,
            context=name,
            ciphertext=work((index, words)),
        ).to_bytes()


def carry(params: Params, clients: int) -> dict[str, float]:
    agreement = Agreement(params=params, session=system(16), public_digest=bytes(32))
    collect, states = CollectCommitments(agreement, range(HOLDERS)), dict[int, AwaitRoster]()
    for holder in range(HOLDERS):
        message, states[holder] = generate(agreement, holder)
        collect.receive(message)
    roster, openings = collect.close()
    waiting = dict[int, AwaitOpenings]()
    for holder, state in states.items():
        message, waiting[holder] = state.on_roster(roster)
        openings.receive(message)
    shown, boxes, key = openings.close()
    burns = {holder: BurnInMemory() for holder in range(HOLDERS)}
    holders = {h: s.on_openings(shown, boxes[h], burn=burns[h])[0] for h, s in waiting.items()}

    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    began = time.process_time()
    uploads = CollectUploads(agreement, key, range(clients))
    for client in range(clients):
        uploads.receive(frames(agreement, key, client))
    sent = time.process_time() - began
    message, partials = uploads.close_threshold(range(HOLDERS))
    for each in holders.values():
        partials.receive(each.on_request(agreement, message)[0])
    opened = partials.close()
    spent = time.process_time() - began
    peak = tracemalloc.get_traced_memory()[1] - before

    wrong, size = 0, params.chunk_entries
    for index in range(params.chunks):
        part = opened.values[index * size : (index + 1) * size]
        truth = sum(vector(client, index, len(part)) for client in range(clients))
        wrong += int(
            np.count_nonzero(params.encoding.decode_integers(part, BITS) != truth % 2**BITS)
        )
    return {
        "upload_and_add_cpu_s": round(sent, 1),
        "round_cpu_s": round(spent, 1),
        "wrong_entries": wrong,
        "peak_bytes_an_entry": round(peak / params.entries, 2),
    }


def main(entries: int = 124_000_000, clients: int = 10) -> None:
    params = plan_parameters(
        model=Model.THRESHOLD,
        clients=clients,
        entries=0,
        integers=[(entries, BITS)],
        clip=1.0,
        precision=1.0,
        holders=HOLDERS,
    )
    found: dict[str, Any] = {"ring": str(params.ring), "entries": params.entries}
    found["upload_bytes_an_entry"] = round(params.vector_size / params.entries, 3)
    found["key_mb"] = round(HOLDERS * params.share_size / 1e6, 2)
    tracemalloc.start()
    small = carry(params if entries <= 10**7 else _small(params), clients)
    tracemalloc.stop()
    found["peak_bytes_an_entry"] = small["peak_bytes_an_entry"]
    found |= {name: value for name, value in carry(params, clients).items() if "peak" not in name}
    print(json.dumps(found, indent=1))


def _small(params: Params) -> Params:
    """The same with fewer entries: tracemalloc slows what it measures."""
    from dataclasses import replace

    return replace(params, entries=4_000_000)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
