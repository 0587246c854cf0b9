"""Masks on a device, without one: by triton's interpreter, and by what its compiler makes.

In a process of its own, as triton reads once whether it interprets.
"""

import logging
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from protocols.primitives.prg import MAX_WORDS, SEED_SIZE, Mask, Masks, Suite
from protocols.secrets import Secret
from secagg.rounds import device, masking

TRITON = pytest.mark.skipif(
    find_spec("triton") is None,
    reason="no triton: make gpu runs these in an environment of its own",
)
REGISTERS, INNER_LOOP = (
    64,
    100,
)  # of a thread; instructions: 96 of ten double rounds' own, and a few


def some_masks(count: int) -> list[Mask]:
    return [
        Mask(seed=Secret(bytes([number]) * SEED_SIZE), label=b"test", subtract=number % 3 == 1)
        for number in range(count)
    ]


@pytest.fixture
def log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(device, "_said", set())
    caplog.set_level(logging.WARNING, "secagg")
    return caplog


@pytest.mark.parametrize("suite", Suite)
def test_without_a_device_the_cores_make_the_same_words_and_it_is_said_once(
    suite: Suite, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    if device.why_not(Suite.CHACHA20) is None:
        pytest.skip("this machine has a device")
    expand, masks = device.on_device(), some_masks(5)
    words, expected = np.arange(99, dtype=np.uint64), np.arange(99, dtype=np.uint64)
    for _ in range(2):
        expand(masks, suite).apply_to(words)
        Masks(masks, suite).apply_to(expected)
    assert np.array_equal(words, expected)
    assert len([text for text in log.messages if "cores of this machine" in text]) == 1


def in_triton(*arguments: str, interpreted: bool) -> str:
    environment = os.environ | {"TRITON_INTERPRET": "1" if interpreted else "0"}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("device_work.py")), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@TRITON
def test_the_kernel_makes_the_words_of_the_suite_bit_for_bit() -> None:
    """RFC 8439, many seeds and signs, odd lengths, several calls, the counter's last blocks."""
    assert in_triton("words", interpreted=True).split() == [
        "rfc",
        "random",
        "calls",
        "last",
        "past",
    ]


@TRITON
@pytest.mark.parametrize("architecture", [80, 90])
def test_the_compiled_kernel_keeps_its_state_in_registers(architecture: int) -> None:
    found = in_triton("compile", str(architecture), interpreted=False)
    usage = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", found)}
    assert usage["REG"] <= REGISTERS
    assert usage["STACK"] == usage["LOCAL"] == 0
    loops = inner_loops(found)
    assert len(loops) == 2  # seeds that are subtracted, and those that are added
    assert max(loops) <= INNER_LOOP


def inner_loops(sass: str) -> list[int]:
    """Instructions of each loop that has no other inside."""
    found = re.findall(r"^\s+/\*([0-9a-f]{4,})\*/\s+(.+?);", sass, re.MULTILINE)
    places = [int(place, 16) for place, _ in found]
    spans = []
    for place, (_, text) in zip(places, found, strict=True):
        jump = re.search(r"\bBRA\b.* 0x([0-9a-f]+)", text)
        if jump and (target := int(jump[1], 16)) < place:
            spans.append((target, place))
    return [
        sum(first <= place <= last for place in places)
        for first, last in spans
        if not any(first <= low and high < last for low, high in spans)
    ]


@pytest.mark.gpu
def test_a_real_device_makes_the_words_of_the_suite() -> None:
    why = device.why_not(Suite.CHACHA20)
    if why or os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip(why or "triton interprets")
    masks = some_masks(7)
    streams = device.on_device()(masks, Suite.CHACHA20)
    plain = Masks(masks, Suite.CHACHA20)
    for length in (1, 9, 100_003, 2**20):
        words, expected = np.zeros(length, np.uint64), np.zeros(length, np.uint64)
        streams.apply_to(words)
        plain.apply_to(expected)
        assert np.array_equal(words, expected)


def test_a_benchmark_without_a_device_says_so_and_measures_nothing(tmp_path: Path) -> None:
    if device.why_not(Suite.CHACHA20) is None:
        pytest.skip("this machine has a device")
    script = Path(__file__).parents[3] / "benchmarks/gpu.py"
    command = [sys.executable, str(script), "--json", str(tmp_path / "gpu.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("nothing was measured: ")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_more_words_than_a_seed_may_give_are_refused_before_the_device() -> None:
    with pytest.raises(masking.LocalProtocolError, match="at most"):
        masking.check_words(np.zeros(9, np.uint64), MAX_WORDS - 8)
