from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from protocols.bonawitz import Params
from protocols.primitives.prg import Expand
from protocols.testing import agreement_of, played
from secagg.rounds.in_memory import run_bonawitz
from secagg.rounds.masking import over, serial, threads
from secagg.stage import Stage

WORDS = 2**15 + 9


AGREEMENT = agreement_of(Params(clients=6, threshold=4, words=WORDS))


def check(expand: Expand) -> None:
    inputs = {client: np.full(WORDS, client, np.uint64) for client in range(6)}
    total = run_bonawitz(AGREEMENT, inputs, {5: Stage.MASK, 4: Stage.SHARE}, expand=expand)
    assert total.survivors == (0, 1, 2, 3)
    assert (total.values == 6).all()


def test_a_server_unmasks_with_workers() -> None:
    check(serial)
    check(threads(2))
    with ThreadPoolExecutor() as executor:
        check(over(executor, parts=3))


@pytest.mark.parametrize("in_parts", [False, True])
def test_a_client_masks_with_workers_to_the_same_bytes(*, in_parts: bool) -> None:
    words = np.arange(WORDS, dtype=np.uint64)

    def frames(expand: Expand | None) -> list[bytes]:
        made = played(AGREEMENT, dict.fromkeys(range(6), words), "boxes")
        given = np.array_split(words, 5) if in_parts else words
        return list(made.states[2].on_boxes(made.boxes[2], given, expand=expand)[0])

    with ThreadPoolExecutor() as executor:
        assert frames(over(executor, parts=2)) == frames(None)
