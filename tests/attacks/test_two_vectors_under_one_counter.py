"""Attack: a rank masks two vectors alike, and whoever carries them has their difference.

A driver that forgets its counter after a restart, or an epoch that is restored, would do so. A
counter is used once in an epoch, an epoch is never copied, and a restart agrees fresh keys.
"""

import numpy as np
import pytest

from protocols.errors import LocalProtocolError
from protocols.testing import insecure_entropy
from protocols.zero_sharing import Agreement, Epoch, Params, join

AGREEMENT = Agreement(params=Params(ranks=3), session=bytes(16), round=0, public_digest=bytes(32))


def epochs(start: str) -> list[Epoch]:
    """The epochs of three ranks that have started; ``start`` names what entropy gives."""
    joined = [join(AGREEMENT, rank, insecure_entropy(f"{start}, rank {rank}")) for rank in range(3)]
    sent = [message for message, _ in joined]
    return [state.on_keys(sent) for _, state in joined]


def carried(epoch: Epoch, value: int, counter: int) -> np.ndarray:
    vector = np.full(6, value, np.uint64)
    epoch.begin(vector, counter=counter)
    return vector


def test_with_the_check_removed_the_carrier_has_the_difference() -> None:
    epoch = epochs("monday")[0]
    first = carried(epoch, 1_000, 0)
    epoch._next = 0  # the rule removed
    second = carried(epoch, 1_234, 0)
    assert (second - first)[:-2].tolist() == [234] * 4


def test_a_counter_is_refused_a_second_time() -> None:
    epoch = epochs("monday")[0]
    carried(epoch, 1_000, 0)
    with pytest.raises(LocalProtocolError, match="counter 0 was used"):
        carried(epoch, 1_234, 0)


def test_a_restart_that_begins_to_count_again_shows_nothing() -> None:
    first = carried(epochs("monday")[0], 1_000, 0)
    second = carried(epochs("tuesday")[0], 1_234, 0)
    assert (second - first)[0] not in range(1_000)
    # Were entropy to repeat itself, so would the masks: it must come from the system.
    again = carried(epochs("monday")[0], 1_234, 0)
    assert (again - first)[:-2].tolist() == [234] * 4


def test_one_rank_that_starts_anew_alone_agrees_with_nobody() -> None:
    """Elastic restarts: the others' keys are spent with their old epoch, and nothing opens."""
    running, restarted = epochs("monday"), epochs("tuesday")
    vectors = [np.full(6, 5, np.uint64) for _ in range(3)]
    group = [running[0], running[1], restarted[2]]
    waits = [each.begin(vector, counter=0) for each, vector in zip(group, vectors, strict=True)]
    total = np.sum(vectors, axis=0, dtype=np.uint64)
    for wait in waits:
        with pytest.raises(Exception, match="check word"):
            wait.open(total)
