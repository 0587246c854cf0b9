"""A server that lies to clients that pick their holders, and all that it can open by it.

``Lying`` holds real clients, whose every record it may restore, and corrupt ones, which give it
all they have and sign what it likes. ``openable`` says, by the clients' rules alone and without
any cryptography, which sets of honest clients some such server opens.
"""

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols.bonawitz import Agreement, Params, Rates, client, messages, restore, server
from protocols.bonawitz import params as of_params
from protocols.bonawitz.graph import GraphPlan
from protocols.bonawitz.messages import (
    Mark,
    MaskedFrame,
    Reveal,
    ShareBoxes,
    Signatures,
    SignedSet,
    SignedSurvivors,
    Survivors,
)
from protocols.burn import Burn
from protocols.entropy import Entropy
from protocols.errors import RemoteProtocolError
from protocols.primitives import sign
from protocols.primitives.agree import PrivateKey
from protocols.primitives.prg import Mask, Masks
from protocols.primitives.shamir import combine
from protocols.secrets import Secret
from protocols.testing import (
    agreement_of,
    burn_nothing,
    insecure_entropy,
    insecure_identities,
    insecure_plan,
    played,
)
from protocols.wire import read_subset, write_subset

Sets = Mapping[int, Collection[int]]


def input_of(client: int) -> NDArray[np.uint64]:
    return np.array([1 << client % 60, 7], np.uint64)


class Lying:
    """A server and its corrupt clients, which give it all they have and sign what it likes.

    Args:
      params: by default of so many clients, a sixth of them corrupt, and two words.
      roster: who takes part; by default everybody.
      picks: of each client, in place of what it draws.
      session: of the round; another one is another round among the same clients.
    """

    def __init__(
        self,
        clients: int,
        corrupt: Collection[int] = (),
        *,
        params: Params | None = None,
        picks: Sets | None = None,
        session: bytes = bytes(16),
    ) -> None:
        self.corrupt = frozenset(corrupt)
        self.everybody = range(clients)
        self.honest = [n for n in self.everybody if n not in self.corrupt]
        self.agreement: Agreement = replace(
            agreement_of(params or params_of(clients)), session=session
        )
        self.header = self.agreement.header
        self.identities = insecure_identities(self.everybody)
        inputs = {n: input_of(n) for n in self.everybody}
        with patch.object(client, "pick", chooses(picks) if picks else client.pick):
            made = played(
                self.agreement,
                inputs,
                "boxes",
                identities=self.identities,
                entropy=lambda n: insecure_entropy((session, n)),
            )
        self.context, self.keys, self.sealed = made.context, made.keys, made.sealed
        self.opening = {n: made.states[n].into_record() for n in self.everybody}
        self.picks = {n: frozenset(self.sealed[n]) for n in self.everybody}
        plan = self.agreement.params.plan(clients)
        self.quorum, self.threshold = plan.quorum, plan.threshold
        self.needed = self.agreement.params.needed(plan)
        self._mask_keys = {n: Secret(insecure_entropy((session, n))(32)) for n in self.corrupt}
        self.forget()

    def forget(self) -> None:
        """As it was when the boxes were sealed: nobody has masked."""
        self.frames: dict[int, bytes] = {}
        self.included: dict[int, frozenset[int]] = {}
        self.marks: dict[int, SignedSet] = {}
        self.records: dict[int, Secret] = {}
        self.signing: dict[int, tuple[frozenset[int], Secret]] = {}
        self.signed: dict[frozenset[int], dict[int, bytes]] = {}
        self.revealed: dict[int, tuple[frozenset[int], dict[int, bytes]]] = {}

    def near(self, client: int) -> set[int]:
        return {n for n in self.everybody if n in self.picks[client] or client in self.picks[n]}

    # What one client is shown; each raises what the client raises

    def show_boxes(
        self, client: int, senders: Collection[int], shared: Collection[int], burn: Burn
    ) -> None:
        """The boxes of ``senders``, and these to have shared."""
        message = ShareBoxes(
            header=self.header,
            recipient=client,
            boxes={s: self.sealed[s][client] for s in sorted(senders) if client in self.sealed[s]},
            shared=write_subset(shared, self.everybody),
        ).to_bytes()
        state: Any = restore(self.opening[client], burn=burn)
        frames, state = state.on_boxes(message, input_of(client))
        frame, mark = frames
        read = Mark.from_bytes(mark, expect=self.header, size=len(self.everybody)).mark
        assert self.frames.setdefault(client, frame) == frame, "two vectors of one client"
        assert self.marks.setdefault(client, read) == read, "two marks of one client"
        self.included[client] = read_subset(read.included, self.everybody)
        self.records[client] = state.into_record()

    def show_survivors(
        self,
        client: int,
        alive: Collection[int],
        burn: Burn,
        marks: Mapping[int, SignedSet] | None = None,
    ) -> None:
        """This set, with these marks, or those of whom it has masked with."""
        named = frozenset(alive)
        if marks is None:
            marks = self.marks_for(client, named)
        message = Survivors(
            header=self.header, alive=named, members=self.everybody, marks=dict(marks)
        ).to_bytes()
        state: Any = restore(self.records[client], burn=burn)
        answer, state = state.sign_survivors(message)
        signature = SignedSurvivors.from_bytes(answer, expect=self.header).signature
        self.signed.setdefault(named, {})[client] = signature
        before, _ = self.signing.setdefault(client, (named, state.into_record()))
        assert before == named, "one client signed two sets"

    def marks_for(self, client: int, alive: Collection[int]) -> dict[int, SignedSet]:
        readable = self.included[client] & (self.marks.keys() | self.corrupt)
        return {peer: self.mark_of(peer, client) for peer in readable & set(alive)}

    def mark_of(self, sender: int, reader: int) -> SignedSet:
        """A corrupt client marks whomever helps."""
        if sender not in self.corrupt:
            return self.marks[sender]
        bitmap = write_subset({reader}, self.everybody)
        signature = self.identities[sender].sign(self.context.included(sender), bitmap)
        return SignedSet(included=bitmap, signature=signature)

    def show_signatures(self, client: int, burn: Burn) -> None:
        """All that were made over the set that it has signed, those of the corrupt too."""
        alive, record = self.signing[client]
        body = write_subset(alive, self.everybody)
        label = self.context.survivors()
        corrupt = {n: self.identities[n].sign(label, body) for n in self.corrupt & alive}
        shown = Signatures(header=self.header, signatures=self.signed[alive] | corrupt).to_bytes()
        state: Any = restore(record, burn=burn)
        shares = Reveal.from_bytes(state.on_signatures(shown), expect=self.header).shares
        found = alive, {peer: share.expose() for peer, share in shares.items()}
        assert self.revealed.setdefault(client, found) == found, "two reveals of one client"

    # A whole round

    def mask(self, passed_on: Sets, shared: Sets | None = None) -> None:
        """Each client gets the boxes of these, and these are said to have shared."""
        self.forget()
        everybody = set(self.everybody)
        for n in self.everybody:
            senders = (everybody if n in self.corrupt else set(passed_on[n])) | {n}
            said = senders if shared is None or n in self.corrupt else set(shared[n]) | {n}
            with suppress(RemoteProtocolError):
                self.show_boxes(n, senders - {n}, said, burn_nothing)

    def reveals(self, named: Sets) -> None:
        """What comes back where each client is named a set of its own, with all that was signed."""
        self.signing, self.signed, self.revealed = {}, {}, {}
        for n in self.honest:
            if n in self.records:
                with suppress(RemoteProtocolError):
                    self.show_survivors(n, named[n], burn_nothing)
        for n in self.signing:
            with suppress(RemoteProtocolError):
                self.show_signatures(n, burn_nothing)

    def open(self, named: Sets) -> list[tuple[frozenset[int], NDArray[np.uint64]]]:
        """Every sum of honest clients that comes out of what is revealed, and its words."""
        self.reveals(named)
        return self.opened()

    def opened(self) -> list[tuple[frozenset[int], NDArray[np.uint64]]]:
        """The sums that come out of all that has left the clients; each of as few as can be."""
        seeds, keys = self._rebuilt()
        opened = dict[frozenset[int], NDArray[np.uint64]]()
        for n in self.frames.keys() & set(self.honest):
            part = self._closed(n, keys.keys())
            if part and part <= seeds.keys() and part not in opened:
                words = self._unmasked(part, seeds, keys)
                assert words[-1] == len(part), "the masks are not off"
                opened[part] = words
        return list(opened.items())

    def _closed(self, client: int, keys: Set[int]) -> frozenset[int]:
        """Those whose vectors take off ``client``'s masks and each other's; none if none do."""
        part, edge = set[int](), {client}
        while edge:
            part |= edge
            bound = {
                (n, peer) for n in edge - keys for peer in self.included[n] - keys
            }  # masks that nobody can compute
            if any(n not in self.included.get(peer, ()) for n, peer in bound):
                return frozenset()
            edge = {peer for _, peer in bound} - part
        return frozenset(part)

    def _rebuilt(self) -> tuple[dict[int, Secret], dict[int, PrivateKey]]:
        seeds, keys = {}, {}
        shares: dict[int, Mapping[int, Secret]] = {}
        for n in self.corrupt:
            state: Any = restore(self.records[n], burn=burn_nothing)
            shares[n] = state.shares.take()
        for n in self.everybody:
            first, last = {}, {}
            for place, holder in enumerate(sorted(self.picks[n]), 1):
                if holder in self.corrupt:
                    both = shares[holder][n].expose()
                    first[place], last[place] = both[:32], both[32:]
                elif holder in self.revealed and n in self.revealed[holder][1]:
                    alive, found = self.revealed[holder]
                    (first if n in alive else last)[place] = found[n]
            for half, kept in ((first, seeds), (last, keys)):
                if len(half) >= self.threshold:
                    numbers = sorted(half)[: self.threshold]
                    (kept[n],) = combine(numbers, [[half[i] for i in numbers]])
        keys |= self._mask_keys
        found_keys = {n: PrivateKey(key) for n, key in keys.items()}
        return seeds, {n: k for n, k in found_keys.items() if k.public == self.keys[n].mask}

    def _unmasked(
        self, part: Iterable[int], seeds: Mapping[int, Secret], keys: Mapping[int, PrivateKey]
    ) -> NDArray[np.uint64]:
        words, masks = np.zeros(3, np.uint64), []
        part = set(part)
        for n in part:
            frame = MaskedFrame.from_bytes(self.frames[n], expect=self.header, index=0, count=3)
            words += frame.words
            masks.append(Mask(seed=seeds[n], label=self.context.self_mask(n), subtract=True))
            for peer in self.included[n] - {p for p in part if n in self.included[p]}:
                label = self.context.pair(n, peer)
                mine, theirs = (n, peer) if n in keys else (peer, n)
                (seed,) = keys[mine].agree(self.keys[theirs].mask, label)
                masks.append(Mask(seed=seed, label=label, subtract=n > peer))
        Masks(masks, self.agreement.params.suite).apply_to(words)
        return words


def params_of(clients: int, **changed: Any) -> Params:
    rates = Rates(corrupt_fraction="1/6", dropout=0)
    given: dict[str, Any] = {"clients": clients, "rates": rates, "words": 2, "active": True}
    return Params(**given | changed)


def chooses(picks: Sets) -> Callable[..., list[int]]:
    """In place of ``pick``: whoever is missing among the others is who picks."""

    def pick(others: Iterable[int], count: int, entropy: Entropy) -> list[int]:
        (me,) = picks.keys() - set(others)
        entropy(16 * len(picks))
        assert len(picks[me]) == count
        return sorted(picks[me])

    return pick


def few_clients_pick(
    monkeypatch: pytest.MonkeyPatch, holders: int, threshold: int, *, quorum: int | None = None
) -> None:
    """So few that nothing is promised; ``quorum``: as many sign as this, whatever the rule."""
    plan = insecure_plan(holders, threshold)

    def planned(*args: Any, **named: Any) -> GraphPlan:
        found = plan(*args, **named)
        return found if quorum is None else replace(found, quorum=quorum)

    monkeypatch.setattr(of_params, "plan_graph", planned)
    if quorum is not None:
        monkeypatch.setattr(Params, "needed", lambda self, plan: plan.quorum)


def remember(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute each key and check each signature once: the same clients are played many times."""
    agreed, checked = PrivateKey.agree, lru_cache(maxsize=None)(sign.verify)
    known: dict[tuple[bytes, ...], tuple[Secret, ...]] = {}

    def agree(self: PrivateKey, peer: bytes, *labels: bytes) -> tuple[Secret, ...]:
        asked = (self.public, peer, *labels)
        if asked not in known:
            known[asked] = agreed(self, peer, *labels)
        return known[asked]

    monkeypatch.setattr(PrivateKey, "agree", agree)
    for module in (client, server, messages):
        monkeypatch.setattr(module, "verify", checked)


def parts_of(some: Collection[int], least: int = 0) -> Iterator[frozenset[int]]:
    """Every part of ``some`` that has at least so many."""
    listed = sorted(some)
    for size in range(least, len(listed) + 1):
        yield from map(frozenset, itertools.combinations(listed, size))


def openable(
    picks: Sets, threshold: int, quorum: int, needed: int, corrupt: Collection[int] = ()
) -> dict[frozenset[int], frozenset[int]]:
    """Each set of honest clients that a server can open, and a set of survivors to name for it.

    By the rules alone. The server names the set, some others and all who are corrupt; in the set
    everybody masks with everybody near, and with none of those others: who has picked one of
    them was told that it never shared, and does not sign. Of the others those sign that
    have picked nobody of the set.
    """
    everybody, found = picks.keys(), dict[frozenset[int], frozenset[int]]()
    bad = frozenset(corrupt)
    honest = everybody - bad
    for part in parts_of(honest, 1):
        for rest in parts_of(honest - part):
            alive = part | rest | bad
            if len(alive) < needed or part in found:
                continue
            told = max(len(rest & set(picks[n])) for n in part)
            signing = frozenset(n for n in part if not rest & set(picks[n]))
            signing |= frozenset(n for n in rest if not part & set(picks[n]))
            held = all(len(set(picks[n]) & (part & signing | bad)) >= threshold for n in part)
            if held and len(everybody) - told >= needed and len(signing | bad) >= quorum:
                found[part] = alive
    return found
