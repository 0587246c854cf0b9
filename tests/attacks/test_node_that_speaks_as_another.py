"""Answer as another client, or as nobody: end every sum, or have another counted for you.

Who says what it may not is left out of the sum; the others' sum goes on.
"""

from dataclasses import replace
from pathlib import Path

import pytest
from between import (
    MODEL,
    SHAPES,
    Machines,
    carry,
    check_mean,
    mean_after_another_sum,
    mean_of,
    signing,
)

from protocols import bonawitz
from protocols.errors import RemoteProtocolError
from secagg.nodes.coordinator import Coordinator, FinishedSum, SumSettings
from secagg.nodes.messages import Answer
from secagg.stage import UNSIGNED, Stage

NODES, LIAR, VICTIM = (100, 101, 102, 103), 100, 101
LOSSY = SumSettings(dropout="0.3")


def test_were_the_sender_not_looked_at_the_victim_would_be_turned_away(folder: Path) -> None:
    machines = Machines(folder, NODES)
    under_way = mean_of().begin("train", NODES, model=MODEL, shapes=SHAPES)
    ask = next(under_way.asks())
    request = under_way.request(ask, VICTIM)
    said = machines.answer(LIAR, request)
    assert ask.receive(said.messages) == 1  # the victim's number; the rule is not asked
    with pytest.raises(RemoteProtocolError, match="client 1 has already advertised"):
        under_way.receive(ask, VICTIM, machines.answer(VICTIM, request))


class Liar:
    """Carries a sum in which node 100 says at one stage what ``lie`` makes of its answer."""

    def __init__(self, machines: Machines, stage: Stage, lie: str) -> None:
        self.machines, self.stage, self.lie = machines, stage, lie
        self.told: list[str] = []

    def carry(self, coordinator: Coordinator) -> FinishedSum:
        under_way = coordinator.begin("train", NODES, model=MODEL, shapes=SHAPES)
        for ask in under_way.asks():
            answers = {
                node: self.machines.answer(node, under_way.request(ask, node))
                for node in under_way.asked(ask)
            }
            if ask.stage is self.stage:
                agreement = under_way.proposal.agreement()
                answers[LIAR] = self.changed(answers[LIAR], answers[VICTIM], agreement)
            for node, answer in answers.items():
                try:
                    under_way.receive(ask, node, answer)
                except RemoteProtocolError as error:
                    assert node == LIAR
                    self.told.append(str(error))
        return under_way.finish()

    def changed(self, own: Answer, victims: Answer, agreement: object) -> Answer:
        first, *others = own.messages
        if self.lie == "the victim's":
            return replace(own, messages=victims.messages)
        if self.lie == "as 999":
            assert isinstance(agreement, bonawitz.Agreement)
            stranger, _ = bonawitz.join(agreement, 999)
            return replace(own, messages=(stranger[:26] + first[26:], *others))
        if self.lie == "nothing":
            return replace(own, messages=())
        return replace(own, messages=(first[:-1] + bytes([first[-1] ^ 1]), *others))


@pytest.mark.parametrize("lie", ["the victim's", "as 999", "nothing", "malformed"])
@pytest.mark.parametrize("stage", UNSIGNED)
def test_who_speaks_as_another_or_as_nobody_is_left_out_and_the_sum_goes_on(
    folder: Path, stage: Stage, lie: str
) -> None:
    liar, coordinator = Liar(Machines(folder, NODES), stage, lie), mean_of(LOSSY)
    finished = liar.carry(coordinator)
    assert len(liar.told) == 1
    # Whose vector came before it lied is in the sum.
    left = NODES if stage is Stage.REVEAL else NODES[1:]
    assert finished.survivors == left
    check_mean(finished, liar.machines)
    check_mean(finished := carry(coordinator, liar.machines), liar.machines)
    assert finished.survivors == NODES


@pytest.mark.parametrize("stage", [Stage.SHARE, Stage.MASK, Stage.SIGN, Stage.REVEAL])
def test_also_in_a_cohort_that_signs(folder: Path, stage: Stage) -> None:
    machines = Machines(folder, NODES)
    roster, machines.policy = signing(machines)
    liar = Liar(machines, stage, "the victim's")
    finished = liar.carry(mean_of(replace(LOSSY, roster=roster)))
    assert len(liar.told) == 1
    assert set(finished.survivors) >= set(NODES[1:])
    check_mean(finished, machines)


def test_keys_ahead_in_anothers_name_count_as_none(folder: Path) -> None:
    machines, coordinator = Machines(folder, NODES), mean_after_another_sum()
    carry(coordinator, machines)
    coordinator.advertised[LIAR] = coordinator.advertised.pop(VICTIM)
    machines.requests.clear()
    check_mean(finished := carry(coordinator, machines), machines)
    asked = {node for node, stage in machines.requests if stage is Stage.ADVERTISE}
    assert (finished.survivors, asked) == (NODES, {LIAR, VICTIM})
