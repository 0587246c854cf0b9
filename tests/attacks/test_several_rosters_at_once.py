"""A lying server shows each honest client a roster of its own, with the corrupt ones in all.

A graph is planned for the roster that was shown. So a small one has a small threshold, and each
of them is a round of its own with its own sum. What holds that back is that a majority of all
the clients agreed upon, and the corrupt ones, must be in every roster: two then share an honest
client, who answers one of them.
"""

import numpy as np
import pytest

from protocols.bonawitz import Params, Rates
from protocols.errors import ProtocolError
from protocols.primitives.shamir import majority
from protocols.testing import agreement_of, insecure_identities, played

CLIENTS = 10
RATES = Rates(corrupt_fraction="0.1", dropout="0.2")  # client 0 is the corrupt one
AGREEMENT = agreement_of(Params(clients=CLIENTS, rates=RATES, words=2, active=True))


def read_singly() -> dict[int, int]:
    """What the server reads of the honest clients, one roster each."""
    identities, found = insecure_identities(range(CLIENTS)), {}
    for honest in range(1, CLIENTS):
        inputs = {0: np.zeros(2, np.uint64), honest: np.array([1000 + honest, 7], np.uint64)}
        opened = played(AGREEMENT, inputs, "sum", identities=identities).server.close()
        found[honest] = int(opened.words[0])
    return found


def test_a_roster_that_is_no_majority_of_all_is_refused() -> None:
    with pytest.raises(ProtocolError, match="6 needed"):
        read_singly()


def test_without_that_rule_every_honest_client_is_read_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        Params, "needed", lambda self, plan: max(self.minimum_survivors, plan.quorum)
    )
    assert read_singly() == {honest: 1000 + honest for honest in range(1, CLIENTS)}


@pytest.mark.parametrize("clients", [*range(3, 40), 200, 440, 1000])
def test_two_rosters_of_those_needed_share_an_honest_client(clients: int) -> None:
    rates = Rates(corrupt_fraction="0.1", dropout="0.1")
    params = Params(clients=clients, rates=rates, words=2, active=True)
    needed = params.needed(params.plan(clients))
    assert needed == max(majority(clients, clients // 10), params.plan(clients).quorum)
    assert 2 * needed - clients > clients // 10
