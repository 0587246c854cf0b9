from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.bonawitz import Params
from protocols.testing import agreement_of, played
from secagg import Count, FixedPoint, InputError, Layout, Segment
from secagg.errors import RunError
from secagg.rounds.spool import Spool
from secagg.vectors.layout import PART_WORDS


@given(frames=st.lists(st.binary(max_size=50), max_size=20))
def test_what_was_appended_comes_back_in_order(frames: list[bytes]) -> None:
    with Spool() as spool:
        for frame in frames:
            spool.append(frame)
        assert list(spool) == frames
        assert spool[1:] == frames[1:]
        assert len(spool) == len(frames)
        with pytest.raises(IndexError):
            spool[len(frames)]


def test_a_folder_that_is_not_there_and_a_closed_spool_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot spool"):
        Spool(tmp_path / "nowhere")
    spool = Spool(tmp_path)
    spool.append(b"x")
    spool.close()
    for use in (lambda: spool.append(b"y"), lambda: spool[0]):
        with pytest.raises(RunError):
            use()
    assert list(tmp_path.iterdir()) == []


def test_a_frame_cut_short_on_disk_is_noticed(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        spool.append(b"frame")
        spool._file.truncate(2)
        with pytest.raises(RunError, match="cut short"):
            spool[0]


def layout(entries: int) -> Layout:
    segments = (
        Segment(name="update", entries=entries, codec=FixedPoint(clip=1.0, bits=14), weighted=True),
        Segment(name="weight", entries=1, codec=Count(maximum=3)),
    )
    return Layout(segments=segments, clients=2, max_weight=3)


@pytest.mark.parametrize("entries", [0, 1, 3 * PART_WORDS - 1, 3 * PART_WORDS, 7 * PART_WORDS + 5])
def test_parts_are_the_whole_vector(entries: int) -> None:
    values = {"update": np.linspace(-1, 1, entries), "weight": 2}

    def entropy(count: int) -> bytes:
        return bytes(count)

    whole = layout(entries).encode(values, weight=2, entropy=entropy)
    parts = list(layout(entries).encode_parts(values, weight=2, entropy=entropy))
    assert all(len(part) <= PART_WORDS for part in parts)
    decoded = layout(entries).decode(np.concatenate(parts))
    exact = layout(entries).decode(whole)
    # Rounding draws its bits in the order of the parts: one step apart at the most.
    np.testing.assert_allclose(decoded["update"], exact["update"], atol=2.1 / (2**13 - 1))
    assert decoded["weight"] == exact["weight"] == 2


def test_bad_values_are_refused_before_the_first_part_or_in_their_own() -> None:
    with pytest.raises(InputError, match="entries"):
        layout(10).encode_parts({"update": np.zeros(9), "weight": 1})
    values = np.zeros(7 * PART_WORDS)
    values[-1] = np.nan
    with pytest.raises(InputError, match="nan"):
        list(layout(len(values)).encode_parts({"update": values, "weight": 1}))


def test_a_round_over_spools_and_parts_gives_the_sum() -> None:
    shape = layout(3 * PART_WORDS)
    agreement = agreement_of(Params(clients=2, threshold=2, words=shape.words))
    made = played(agreement, dict.fromkeys(range(2), np.zeros(shape.words, np.uint64)), "boxes")
    vectors, holding = made.server, {}
    for client in range(2):
        parts = shape.encode_parts({"update": np.full(3 * PART_WORDS, 0.5), "weight": 1})
        frames, holding[client] = made.states[client].on_boxes(made.boxes[client], parts)
        with Spool() as spool:
            for frame in frames:
                spool.append(frame)
            vectors.receive(spool)
    survivors, reveals = vectors.close()
    for client in range(2):
        reveals.receive(holding[client].on_survivors(survivors[client]))
    sums = shape.decode(reveals.close().words)
    np.testing.assert_allclose(sums["update"], 1.0, atol=1e-3)
    assert sums["weight"] == 2
