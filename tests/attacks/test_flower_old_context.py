"""Keep a node's context from before it revealed, hand it back, and name other survivors.

Flower stores the contexts, so whoever runs a node's SuperNode, or restores its backup, can do
so. With the first answers every self-mask opens, with the second every mask of one victim, and
off comes its vector (rule 5 of the guarantees). The burn file lies in the node's own folder,
does not travel with the context, and refuses the second answer. Without it the attack works.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from engine import MEAN, START, fit, grid_of, programs
from flwr.app import Message, RecordDict

from protocols import bonawitz
from protocols.bonawitz.messages import MaskedFrame, Reveal, Roster, Survivors
from protocols.primitives.agree import PrivateKey
from protocols.primitives.prg import Mask, Masks
from protocols.primitives.shamir import combine
from protocols.secrets import Secret
from secagg.adapters.flower import SecureGrid
from secagg.adapters.flower.records import with_request
from secagg.adapters.testing import LocalGrid, answer_of, request_of, stage_of
from secagg.nodes.messages import Request
from secagg.nodes.proposal import CLIPPED, METRIC, UPDATE, WEIGHT, Proposal

VICTIM = 102


class Kept(LocalGrid):
    """Keeps a copy of every context from before the node is asked to reveal."""

    def _push(self, message: Message) -> str:
        node = message.metadata.dst_node_id
        if stage_of(message) == "reveal":
            self.old = {**getattr(self, "old", {}), node: self.contexts[node]}
        return super()._push(message)


class Played:
    """One round, as a server sees it that remembers everything."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.nodes = folder, programs(4)
        self.grid = Kept(grid_of(self.nodes, folder).apps)
        fit(SecureGrid(self.grid, MEAN))
        asked = self.sent("reveal")
        self.proposal = Proposal.from_bytes(asked[VICTIM].proposal)
        agreement = self.proposal.agreement()
        assert isinstance(agreement, bonawitz.Agreement)
        self.agreement, self.header = agreement, agreement.header
        self.clients = {node: request.client for node, request in asked.items()}
        self.everybody = Survivors.from_bytes(
            asked[VICTIM].message, expect=self.header, members=range(len(asked))
        ).alive
        self.asked, self.first = asked, self.answers("reveal")

    def sent(self, stage: str) -> dict[int, Request]:
        return {
            message.metadata.dst_node_id: request
            for message in self.grid.sent
            if (request := request_of(message)) and request.stage == stage
        }

    def answers(self, stage: str) -> dict[int, bytes]:
        """What each node answered: of one frame."""
        places = [stage_of(message) for message in self.grid.sent]
        replies = [reply for reply, at in zip(self.grid.seen, places, strict=True) if at == stage]
        return {reply.metadata.src_node_id: framed(reply) for reply in replies}

    def again(self, alive: frozenset[int]) -> Iterator[Message]:
        """Ask everybody but the victim once more, with its old context."""
        for node, first in self.asked.items():
            if node == VICTIM:
                continue
            self.grid.contexts[node] = self.grid.old[node]
            survivors = Survivors(header=self.header, alive=alive, members=range(len(self.clients)))
            request = replace(first, message=survivors.to_bytes(), next_session=b"")
            content = with_request(RecordDict(), request.to_bytes())
            asked = Message(content, node, "train")
            yield from self.grid.send_and_receive([asked])

    def stolen(self, second: dict[int, bytes]) -> dict[str, np.ndarray]:
        """The victim's vector: all masks off it."""
        me = self.clients[VICTIM]
        roster = Roster.from_bytes(
            self.sent("share")[VICTIM].message, expect=self.header, signed=False
        )
        context = self.agreement.context(roster.digest())
        seed, mask_key = (self.rebuilt(me, answers) for answers in (self.first, second))
        count = self.agreement.params.words + 1
        frame = MaskedFrame.from_bytes(
            self.answers("mask")[VICTIM], expect=self.header, index=0, count=count
        )
        words = frame.words.copy()
        masks = [Mask(seed=seed, label=context.self_mask(me), subtract=True)]
        key = PrivateKey(mask_key)
        for peer in self.clients.values():
            if peer != me:
                label = context.pair(me, peer)
                (pair,) = key.agree(roster.entries[peer].mask, label)
                masks.append(Mask(seed=pair, label=label, subtract=peer < me))
        Masks(masks).apply_to(words)
        return self.proposal.layout.decode(words[:-1])

    def rebuilt(self, peer: int, answers: dict[int, bytes]) -> Secret:
        shares = {
            reveal.sender: reveal.shares[peer].expose()
            for reveal in (
                Reveal.from_bytes(answer, expect=self.header) for answer in answers.values()
            )
            if peer in reveal.shares
        }
        chosen = sorted(shares)[: self.agreement.params.threshold]
        points = [client + 1 for client in chosen]  # all clients hold shares, from number 0 on
        return combine(points, [[shares[client] for client in chosen]])[0]


def framed(reply: Message) -> bytes:
    (frame,) = answer_of(reply).messages
    return frame


def test_no_node_answers_for_a_second_set_of_survivors(folder: Path) -> None:
    played = Played(folder)
    for reply in played.again(played.everybody - {played.clients[VICTIM]}):
        assert "stage 3" in reply.error.reason
        assert "was answered for another request" in reply.error.reason


def test_the_same_request_again_is_answered_byte_for_byte(folder: Path) -> None:
    played = Played(folder)
    again = {reply.metadata.src_node_id: framed(reply) for reply in played.again(played.everybody)}
    assert again == {node: played.first[node] for node in again}


def test_without_the_burn_file_the_server_reads_the_victims_update(folder: Path) -> None:
    played = Played(folder)
    for node in played.nodes:
        for file in (folder / str(node)).glob("burnt.sqlite*"):
            file.unlink()
    replies = list(played.again(played.everybody - {played.clients[VICTIM]}))
    second = {reply.metadata.src_node_id: framed(reply) for reply in replies}
    victim, stolen = played.nodes[VICTIM], played.stolen(second)
    assert stolen[WEIGHT][0] == victim.examples
    share = victim.examples / MEAN.max_weight
    update = np.concatenate([array.ravel() for array in victim.update(START).values()])
    assert np.allclose(stolen[UPDATE] / share, update, rtol=0, atol=1e-4)
    assert stolen[METRIC + "loss"][0] / share == pytest.approx(victim.metrics("loss")["loss"])
    assert stolen[CLIPPED][0] == 0


def test_a_context_does_not_open_on_another_node(folder: Path) -> None:
    played = Played(folder)
    for node in played.nodes:
        played.grid.old[node] = played.grid.old[VICTIM]
    replies = list(played.again(played.everybody))
    assert len(replies) == 3
    for reply in replies:
        assert "the state is not of this node, or was changed" in reply.error.reason
