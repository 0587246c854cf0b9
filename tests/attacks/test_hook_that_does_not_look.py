"""Attack by accident: a hook goes on with its own words after a collective that failed.

torch hands a failed future to the callback all the same, and the words that were to be summed lie
there as they were. A hook that never calls ``value()`` trains on them, and ranks drift apart
without a sound. Ours looks; and were that removed, the check word would still see it.
"""

import torch
from rank_work import hook_without_value
from ranks import MISSING, run


def test_a_hook_without_value_and_check_word_trains_on_garbage() -> None:
    found = run(hook_without_value, "bare")
    assert found.pop(2) == MISSING
    raised, moved = [each[0] for each in found], [not each[3] for each in found]
    assert raised == [""] * 3
    assert moved == [True] * 3
    assert not torch.equal(found[0][4], found[1][4])  # they have drifted apart


def test_without_the_look_the_check_word_sees_it() -> None:
    found = run(hook_without_value, "unlooked")
    assert found.pop(2) == MISSING
    for name, text, _, still, _ in found:
        assert (name, still) == ("RemoteProtocolError", True)
        assert "check word" in text


def test_ours_raises_and_moves_nothing() -> None:
    found = run(hook_without_value, "ours")
    assert found.pop(2) == MISSING
    for name, _, _, still, _ in found:
        assert (name, still) == ("PeerError", True)
