"""Ranks of a test: processes over gloo, forked from one that has imported torch already."""

import multiprocessing
import os
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

TIMEOUT = 6.0  # seconds that a rank waits for another
HERE = Path(__file__).parent
MISSING = "no answer"

Work = Callable[..., Any]


def _serve(
    work: Work, rank: int, ranks: int, store: str, timeout: float, answer: Connection, args: Any
) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=ranks,
        timeout=timedelta(seconds=timeout),
    )
    try:
        answer.send_bytes(pickle.dumps(work(rank, *args)))  # tensors as values, not shared memory
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os._exit(0)  # a group whose peer is gone would wait for it


def run(
    work: Work,
    *args: Any,
    ranks: int = 4,
    timeout: float = TIMEOUT,
    deadline: float = 60.0,
    stops: int = 0,
) -> list[Any]:
    """What ``work(rank, *args)`` returns on each rank, ``MISSING`` of one that was killed.

    Args:
      stops: ranks that stop, so that nothing is heard of them.
      deadline: seconds after which whoever has not answered is killed; the test then fails.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "secagg.adapters.torch_distributed"])
    with tempfile.TemporaryDirectory() as folder:
        store, readers, started = f"{folder}/store", {}, []
        for rank in range(ranks):
            reader, writer = context.Pipe(duplex=False)
            process = context.Process(
                target=_serve, args=(work, rank, ranks, store, timeout, writer, args), daemon=True
            )
            process.start()
            writer.close()
            readers[reader] = rank
            started.append(process)
        answers: list[Any] = [MISSING] * ranks
        try:
            end = time.monotonic() + deadline
            while len(readers) > stops and (left := end - time.monotonic()) > 0:
                for reader in wait(list(readers), left):
                    assert isinstance(reader, Connection)
                    rank = readers.pop(reader)
                    try:
                        answers[rank] = pickle.loads(reader.recv_bytes())  # noqa: S301  # our own
                    except EOFError:
                        continue
        finally:
            late = [process for process in started if process.is_alive()]
            for process in started:
                process.kill()
                process.join()
    if len(readers) > stops:
        raise AssertionError(f"no answer after {deadline} s: {len(late)} processes hang")
    return answers


def net(seed: int = 0, *, width: int = 64) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(16, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 4)
    )


def batch(rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The same examples of a rank at every step."""
    generator = torch.Generator().manual_seed(100 + rank)
    return torch.randn(8, 16, generator=generator), torch.randint(0, 4, (8,), generator=generator)


def attempt(work: Callable[[], Any]) -> tuple[str, str, float]:
    """The type and text of what ``work`` raises, and how long that took."""
    begun = time.monotonic()
    try:
        work()
    except Exception as error:  # noqa: BLE001  # whatever it is, the test says what it must be
        return type(error).__name__, str(error), time.monotonic() - begun
    return "", "", time.monotonic() - begun
