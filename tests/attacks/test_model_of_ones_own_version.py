"""Hand the victim a version of the model that nobody else trains on, and read it off the sum.

Where a sum mixes versions the others may say truly, or be said falsely, to have trained on
another one, on which their updates vanish: the correct sum is then the victim's update alone
(arXiv 2111.07380). Each client counts the survivors of every version before it helps to open.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from between import ENTRIES, SHAPES, Machines, carry, signing

from protocols import bonawitz
from protocols.burn import Burn
from protocols.errors import TooFewSurvivors
from protocols.secrets import Secret
from secagg.adapters.testing import ANYTHING
from secagg.errors import InputError, RefusedError
from secagg.nodes.buffer import Session
from secagg.nodes.coordinator import Coordinator, FinishedSum, SumSettings, WeightedMean
from secagg.nodes.messages import Request
from secagg.nodes.policy import NodePolicy
from secagg.nodes.proposal import Contribution, Proposal
from secagg.nodes.versions import Versions
from secagg.rounds.parties import BonawitzClient
from secagg.stage import Stage

NODES, VICTIM = tuple(range(100, 108)), 105
LIVE, DEAD = bytes([7]) * 32, bytes([8]) * 32  # digests of the victim's model and of the others'
SUMMED = WeightedMean(clip=1.0, max_weight=10)
MIXES = replace(ANYTHING, maximum_staleness=2, minimum_same=3)
OWN = {node: np.random.default_rng(node).uniform(-0.5, 0.5, ENTRIES) for node in NODES}


def machines_of(
    folder: Path, live: tuple[int, ...] = (VICTIM,), policy: NodePolicy = MIXES
) -> Machines:
    """Nodes of which those that were not handed the live model bring zeros."""
    return Machines(
        folder,
        NODES,
        policy=policy,
        shown={node: LIVE if node in live else DEAD for node in NODES},
        model=DEAD,
        work=lambda node, _: Contribution(
            vector=OWN[node] * (node in live), weight=1 + node % 7, metrics={}
        ),
    )


def session(named: Mapping[int, int], *, same: int = 3) -> Session:
    """Live is version 7, dead the newest; both count the same."""
    return Session(
        nodes={node: named.get(node, 8) for node in NODES},
        digests={7: LIVE, 8: DEAD},
        weights=(1, 1),
        minimum_same=same,
    )


def attack(machines: Machines, named: Mapping[int, int], **more: object) -> FinishedSum:
    coordinator = Coordinator(SUMMED, SumSettings(minimum_survivors=4))
    given = session(named)
    return carry(coordinator, machines, session=given, **more)  # type: ignore[arg-type]  # of carry


def stolen(finished: FinishedSum) -> bool:
    """Whether the sum is the victim's update times its weight."""
    result = finished.result
    found = result.vector * result.weight / (1 + VICTIM % 7)
    return bool(np.abs(found - OWN[VICTIM]).max() < 0.01)


def count_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Versions, "_check", lambda *_: None)


def count_those_who_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule removed: a version has as many as the proposal names, whoever survives."""
    monkeypatch.setattr(Versions, "check_survivors", lambda *_: None)


def test_a_proposal_that_names_one_alone_on_its_version_is_none() -> None:
    with pytest.raises(InputError, match="1 clients would be in the sum with version 7"):
        session({VICTIM: 7}).versions({node: node for node in NODES})


def test_without_the_count_the_sum_is_the_victims_update(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count_nobody(monkeypatch)
    finished = attack(machines_of(folder), {VICTIM: 7})
    assert finished.survivors == NODES
    assert stolen(finished)


FALSELY = {100: 7, 101: 7, VICTIM: 7}  # the first two trained on the dead one


def test_who_is_named_another_version_than_its_own_brings_nothing(folder: Path) -> None:
    machines = machines_of(folder)
    with pytest.raises(TooFewSurvivors):
        attack(machines, FALSELY)
    assert not {100, 101} & machines.brought.keys()


def test_a_version_whose_other_clients_are_named_falsely_is_not_opened(folder: Path) -> None:
    machines = machines_of(folder)
    with pytest.raises(TooFewSurvivors):
        attack(machines, FALSELY)
    refusals = [str(error) for error in machines.errors if isinstance(error, RefusedError)]
    expected = "1 clients would be in the sum with version 7 of the model, minimum_same is 3"
    assert refusals == [expected] * 6  # each of the survivors, not the victim alone


def test_counting_names_and_not_survivors_opens_the_victims_update(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count_those_who_are_named(monkeypatch)
    finished = attack(machines_of(folder), FALSELY)
    assert set(finished.survivors) == set(NODES) - {100, 101}
    assert stolen(finished)


def test_a_victim_that_alone_counted_would_be_opened_by_the_others(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = Versions.check_survivors

    def own_alone(versions: Versions, alive: frozenset[int]) -> None:
        asked.append(alive)
        if len(asked) == 6:  # the victim answers last
            check(versions, alive)

    asked: list[frozenset[int]] = []
    monkeypatch.setattr(Versions, "check_survivors", own_alone)
    machines = machines_of(folder)
    machines.ids = (*(node for node in NODES if node != VICTIM), VICTIM)
    finished = attack(machines, FALSELY, nodes=machines.ids)
    assert [type(error) for error in machines.errors].count(RefusedError) == 1
    assert stolen(finished)


def lie_about_its_number(node: int, request: Request) -> Request:
    """The victim is client 5. At the mask stage it is called by a number of its own version."""
    if node != VICTIM or request.stage is not Stage.MASK:
        return request
    return replace(request, client=0)


LIVE_THREE = (100, 101, 102)


def test_a_node_that_is_called_by_another_number_than_it_began_with_brings_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would answer for the version of that number, and stand in the sum under its own."""
    named = dict.fromkeys(LIVE_THREE, 7)
    machines = machines_of(folder / "held", (*LIVE_THREE, VICTIM))
    finished = attack(machines, named, change=lie_about_its_number)
    assert VICTIM not in finished.survivors
    assert VICTIM not in machines.brought
    assert [str(e) for e in machines.errors] == ["our state is of client 5, we are called 0"]

    monkeypatch.setattr("secagg.nodes.node.BonawitzClient.from_record", unnumbered)
    machines = machines_of(folder / "open", (*LIVE_THREE, VICTIM))
    finished = attack(machines, named, change=lie_about_its_number)
    assert VICTIM in finished.survivors  # on the live model, among those of the dead one


def unnumbered(party: BonawitzClient, record: Secret, *, burn: Burn) -> BonawitzClient:
    """The rule removed: whatever number a state has."""
    state = bonawitz.restore(record, burn=burn)
    if isinstance(state, bonawitz.AwaitRoster):
        state = state.rebind(party.agreement)
    party._state = state
    return party


def test_a_list_without_the_digest_of_ones_own_version_is_refused(folder: Path) -> None:
    machines = machines_of(folder, NODES[:3])
    machines.shown[100] = bytes(32)  # not what the list calls version 7
    with pytest.raises(TooFewSurvivors):
        attack(machines, dict.fromkeys(NODES[:3], 7))
    assert "the model that came is not the one that was proposed" in map(str, machines.errors)
    assert 100 not in machines.brought


def test_honest_versions_are_summed(folder: Path) -> None:
    machines = machines_of(folder, (*LIVE_THREE, VICTIM))
    result = attack(machines, dict.fromkeys((*LIVE_THREE, VICTIM), 7)).result
    live = [*LIVE_THREE, VICTIM]
    expected = sum((1 + node % 7) * OWN[node] for node in live)
    assert result.weight == sum(1 + node % 7 for node in NODES)
    assert np.abs(result.vector * result.weight - expected).max() < 0.01


def refusals(machines: Machines, **more: object) -> set[str]:
    with pytest.raises(TooFewSurvivors):
        attack(machines, dict.fromkeys((*LIVE_THREE, VICTIM), 7), **more)
    return {str(error).split(":")[0] for error in machines.errors}


def test_by_default_a_node_mixes_no_versions(folder: Path) -> None:
    machines = machines_of(folder / "stale", policy=ANYTHING)
    assert refusals(machines) == {"this node's policy refuses (maximum_staleness 0)"}
    assert not machines.brought
    default = replace(MIXES, minimum_same=None)  # then as many as open a sum: one version
    machines = machines_of(folder / "same", policy=default)
    (said,) = refusals(machines)
    least = int(said.removeprefix("this node's policy refuses (minimum_same ").rstrip(")"))
    assert 2 * least > len(NODES)
    assert not machines.brought


def test_a_version_hides_a_node_from_as_many_as_its_policy_says_collude(folder: Path) -> None:
    """Two of eight, both on the victim's version, read its update if they are all but it."""
    policy = replace(MIXES, corrupt_fraction="0.25", minimum_same=2)
    machines = machines_of(folder, policy=policy)
    assert refusals(machines) == {"this node's policy refuses (corrupt_fraction)"}
    machines.policy = replace(policy, corrupt_fraction="0.125")
    machines.shown |= dict.fromkeys(LIVE_THREE, LIVE)
    assert attack(machines, dict.fromkeys((*LIVE_THREE, VICTIM), 7)).survivors == NODES


def test_a_sum_against_a_server_that_lies_has_one_version(folder: Path) -> None:
    machines = machines_of(folder)
    roster, machines.policy = signing(machines)
    coordinator = Coordinator(SUMMED, SumSettings(roster=roster))
    with pytest.raises(InputError, match="a sum has one version of the model where"):
        carry(coordinator, machines, session=session(dict.fromkeys(LIVE_THREE, 7)))


def test_a_proposal_to_who_signs_cannot_even_be_read(folder: Path) -> None:
    said = Coordinator(SUMMED, SumSettings()).begin(
        "train",
        NODES,
        model=DEAD,
        shapes=SHAPES,
        session=session(dict.fromkeys(LIVE_THREE, 7)),
    )
    proposal = Proposal.from_bytes(said.proposal.to_bytes())
    assert isinstance(proposal.params, bonawitz.Params)
    with pytest.raises(InputError, match="a sum has one version"):
        replace(
            proposal,
            params=replace(proposal.params, active=True, threshold=8, max_corrupt=1),
            roster_digest=bytes(32),
        )


def test_two_sums_over_ones_own_version_count_though_the_newest_moved(folder: Path) -> None:
    machines = machines_of(folder, (*LIVE_THREE, VICTIM), policy=replace(MIXES, sums_per_model=1))
    named = dict.fromkeys((*LIVE_THREE, VICTIM), 7)
    attack(machines, named)
    newer = replace(session(named), digests={7: LIVE, 8: bytes(32), 9: DEAD}, weights=(1, 1, 1))
    machines.shown |= dict.fromkeys(set(NODES) - named.keys(), bytes(32))
    coordinator = Coordinator(SUMMED, SumSettings(minimum_survivors=4))
    machines.model = DEAD
    with pytest.raises(TooFewSurvivors):
        carry(coordinator, machines, session=newer)
    counted = "this node's policy refuses (sums_per_model 1)"
    assert [str(error).split(":")[0] for error in machines.errors].count(counted) == len(named)
