"""What a node brings becomes the words of the vectors, and those say what it brought."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from codec import WORDS, codec, words_of

from secagg.nodes.proposal import Average, Failure, Proposal

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "codec.json").read_text())


def test_the_file_is_what_make_writes() -> None:
    assert json.loads(json.dumps(codec())) == VECTORS


def test_failures_stand_in_the_order_of_the_vector() -> None:
    assert len(WORDS) == len(Failure)
    assert [failure.name.lower() for failure in Failure] == list(WORDS)


def test_the_page_shows_a_word_of_the_first_case() -> None:
    page = Path(__file__).parents[2] / "docs" / "protocols" / "codec.md"
    assert VECTORS["cases"][0]["words"][0] in page.read_text("utf-8")


def _sent(update: list[float], proposal: Proposal) -> Any:
    """What the page says of ``compress``, written from the page."""
    assert isinstance(proposal.content, Average)
    many = proposal.content.compress.one_in
    if many == 1:
        return update
    blocks = -(-len(update) // many)
    data = hashlib.shake_128(b"secagg 1 sampled entries" + proposal.seed).digest(4 * blocks)
    places = [
        many * block + (many * int.from_bytes(data[4 * block : 4 * block + 4], "little") >> 32)
        for block in range(blocks)
    ]
    return [update[place] if place < len(update) else 0.0 for place in places]


MORE: list[dict[str, Any]] = [
    *VECTORS["cases of several versions"],
    *VECTORS["cases of parts"],
    *VECTORS["compressed cases"],
]


@pytest.mark.parametrize("case", [*VECTORS["cases"], *MORE], ids=lambda case: str(case["shows"]))
def test_words_follow_from_proposal_and_seeds_and_decode_to_what_was_brought(
    case: dict[str, Any],
) -> None:
    proposal = Proposal.from_bytes(case["proposal"].encode())
    assert proposal.agreement().public_digest.hex() == case["public"]
    client = case.get("client", 0)
    seeds = [bytes.fromhex(seed) for seed in case["seeds"]]
    words = words_of(proposal, case["own"], seeds, client)
    counts, most = 1, 1
    if proposal.versions:
        counts, most = proposal.versions.weight_of(client), proposal.versions.weights[0]
    if "words" in case:
        assert [f"{word:016x}" for word in words.tolist()] == case["words"]
    sums, own, average = proposal.layout.decode(words), case["own"], proposal.content
    assert isinstance(average, Average)
    if isinstance(own, str):
        assert sums["failed"].tolist() == [int(word == own) for word in WORDS]
        others = {name: values for name, values in sums.items() if name != "failed"}
        if "statistic" in others:  # counted from the middle of its range
            others["statistic"] = others["statistic"] - 2**46
        assert not any(values.any() for values in others.values())
        return
    weight = min(max(own["weight"], 0), average.max_weight)
    assert sums["weight"].tolist() == [weight * counts]
    if average.by_array:
        trained = own.get("trained", [name for name, _ in proposal.shapes])
        assert sums["parts"].tolist() == [weight * (name in trained) for name, _ in proposal.shapes]
    if own["update"] and "statistic" not in sums:
        step = average.clip / (2 ** (average.bits - 1) - 1)
        sent = _sent(own["update"], proposal)
        true = np.clip(sent, -average.clip, average.clip) * weight * counts
        true /= average.max_weight * most
        assert np.abs(sums["update"] - true).max() < step
