"""Answer as another client, who then counts as heard, and is charged for what it never said."""

from pathlib import Path

import pytest
from between import MODEL, SHAPES, Machines, carry, check_mean, mean_of

from protocols.errors import LocalProtocolError, RemoteProtocolError
from secagg.nodes.coordinator import ImpersonationError
from secagg.stage import Stage

NODES, LIAR, VICTIM = (100, 101, 102, 103), 100, 101


def test_were_the_sender_not_looked_at_the_victim_would_be_turned_away(folder: Path) -> None:
    machines = Machines(folder, NODES)
    under_way = mean_of().begin("train", NODES, model=MODEL, shapes=SHAPES)
    ask = next(under_way.asks())
    request = under_way.request(ask, VICTIM)
    said = machines.answer(LIAR, request)
    assert ask.receive(said.messages) == 1  # the victim's number; the rule is not asked
    with pytest.raises(RemoteProtocolError, match="client 1 has already advertised"):
        under_way.receive(ask, VICTIM, machines.answer(VICTIM, request))


@pytest.mark.parametrize("stage", [Stage.ADVERTISE, Stage.SHARE, Stage.MASK, Stage.REVEAL])
def test_a_node_that_speaks_as_another_ends_the_sum_and_the_next_works(
    folder: Path, stage: Stage
) -> None:
    machines, coordinator = Machines(folder, NODES), mean_of()
    under_way = coordinator.begin("train", NODES, model=MODEL, shapes=SHAPES)
    for ask in under_way.asks():
        if ask.stage is stage:
            stolen = machines.answer(VICTIM, under_way.request(ask, VICTIM))
            with pytest.raises(ImpersonationError, match="100 is client 0, and spoke as 1"):
                under_way.receive(ask, LIAR, stolen)
            break
        for node in under_way.asked(ask):
            under_way.receive(ask, node, machines.answer(node, under_way.request(ask, node)))
    with pytest.raises(LocalProtocolError, match="no result"):
        under_way.finish()
    check_mean(finished := carry(coordinator, machines), machines)
    assert finished.survivors == NODES


def test_keys_ahead_in_anothers_name_count_as_none(folder: Path) -> None:
    machines, coordinator = Machines(folder, NODES), mean_of()
    carry(coordinator, machines)
    coordinator.advertised[LIAR] = coordinator.advertised.pop(VICTIM)
    machines.requests.clear()
    check_mean(finished := carry(coordinator, machines), machines)
    asked = {node for node, stage in machines.requests if stage is Stage.ADVERTISE}
    assert (finished.survivors, asked) == (NODES, {LIAR, VICTIM})
