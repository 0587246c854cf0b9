from pathlib import Path

import numpy as np

from protocols.bonawitz import Agreement, Params
from secagg.rounds.in_memory import run_bonawitz
from secagg.stage import Stage
from secagg.vectors.layout import Layout, Segment
from secagg.vectors.quantize import FixedPoint

ROOT = Path(__file__).parents[1]
SIZES = ROOT / "docs/how-to/by-hand.md"


def test_the_readme_is_of_one_screen() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 60


def test_the_sizes_of_the_page_are_those_of_a_round() -> None:
    clients, words = 7, 2**15 + 10
    agreement = Agreement(
        params=Params(clients=clients, threshold=4, words=words),
        session=bytes(16),
        round=0,
        public_digest=bytes(32),
    )
    costs = run_bonawitz(agreement, dict.fromkeys(range(clients), np.zeros(words, np.uint64))).costs

    def sizes(n: int, m: int, frames: int) -> dict[Stage, tuple[int, int]]:
        return {
            Stage.ADVERTISE: (106, 0),
            Stage.SHARE: (54 + 96 * (n - 1), 70 + 68 * n),
            Stage.MASK: (8 * (m + 1) + 46 * frames, 30 + 96 * (n - 1)),
            Stage.REVEAL: (46 + 36 * n, 23 + -(-n // 8)),
        }

    found = {stage: (cost.bytes_up, cost.bytes_down) for stage, cost in costs.items()}
    assert found == sizes(clients, words, 2)

    codec = FixedPoint(clip=1.0, bits=14)
    layout = Layout(segments=(Segment(name="u", entries=10**6, codec=codec),), clients=100)
    assert layout.lanes == (3,)
    whole = sizes(100, layout.words, -(-(layout.words + 1) // 2**15)).values()
    up, down = (sum(column) for column in zip(*whole, strict=True))
    assert (f"{up / 1e6:.2f}", f"{down / 1e3:.1f}") == ("2.68", "16.4")
    assert "2.68 MB up and 16.4 kB down" in SIZES.read_text("utf-8")
