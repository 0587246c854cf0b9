"""The server of one sum, for whoever carries messages: what is asked of whom, stage by stage.

A relay is a generator. It yields ``StageRequests``; whoever drives it sends the requests,
hands each answer to ``receive`` as it comes, and goes on when all have answered or its own
deadline has passed. What it returns is the sum. It never waits, and a client that does not
answer, or whose answer ``receive`` refuses, is gone. The clients' half is in
``secagg.rounds.parties``.
"""

from collections.abc import Callable, Container, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from numpy.typing import NDArray

from protocols.bonawitz import Agreement, ClientId, CollectKeys, CollectShares
from protocols.bonawitz.messages import Advertise
from protocols.ckks.params import Agreement as CkksAgreement
from protocols.entropy import Entropy, system
from protocols.errors import RemoteProtocolError
from protocols.primitives.prg import Expand
from protocols.wire import Reader, opaque
from secagg.rounds.masking import expand
from secagg.rounds.spool import Spool
from secagg.stage import Stage

if TYPE_CHECKING:
    from protocols.ckks.keys import Chunks

Identities: TypeAlias = Mapping[ClientId, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRequests:
    """The requests of one stage: what the server asks of whom.

    Attributes:
      stage: its name.
      requests: what each client is sent.
      receive: takes a client's answer, one or several messages, and tells whose it is.
        Raises ``RemoteProtocolError``, and has then taken nothing.
    """

    stage: Stage
    requests: Mapping[ClientId, bytes]
    receive: Callable[[Sequence[bytes]], ClientId] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """The sum, uint64 words or float64 reals of SEAL, and whose vectors it is of."""

    values: NDArray[Any] = field(repr=False)
    survivors: tuple[ClientId, ...]


Relay: TypeAlias = Generator[StageRequests, None, Total]
Found = TypeVar("Found")


def advance(relay: Generator[StageRequests, None, Found]) -> StageRequests | Found:
    """The next stage, or what the relay found."""
    try:
        return next(relay)
    except StopIteration as end:
        found: Found = end.value
        return found


def _single(receive: Callable[[bytes], ClientId]) -> Callable[[Sequence[bytes]], ClientId]:
    return lambda messages: receive(b"".join(messages))


def relay_bonawitz(
    agreement: Agreement,
    clients: Sequence[ClientId],
    *,
    identities: Identities | None = None,
    advertised: Mapping[ClientId, bytes] | None = None,
    shared: CollectShares | None = None,
    expand: Expand = expand,
    entropy: Entropy = system,
) -> Relay:
    """A round of ``protocols.bonawitz``.

    Args:
      clients: who is asked for keys.
      identities: against an active server, everybody's, from somebody who is not it.
      advertised: keys of this session that came before it was proposed. A client
        whose keys are good is not asked again.
      shared: shares of this session that came before it was proposed: who sent them is asked
        for a vector at once, and nobody else for anything.
      expand: how the masks are taken off; see ``secagg.rounds.masking``.

    Raises:
      TooFewSurvivors, RemoteProtocolError: nothing was released.
    """
    if shared is None:
        keys = CollectKeys(agreement, identities)
        known = _receive_known(keys, advertised or {})
        if asked := [client for client in clients if client not in known]:
            yield StageRequests(
                stage=Stage.ADVERTISE,
                requests=dict.fromkeys(asked, b""),
                receive=_single(keys.receive),
            )
        rosters, shares = keys.close(entropy)
        yield StageRequests(stage=Stage.SHARE, requests=rosters, receive=_single(shares.receive))
    else:
        shares = shared.rebind(agreement)
    boxes, vectors = shares.close()
    if agreement.params.active:
        with Spool() as spool:

            def on_disk(frames: Sequence[bytes]) -> ClientId:
                return vectors.receive(spool.keep(frames))

            # Where clients send marks it keeps what it is handed: on disk, not in memory.
            receive = on_disk if vectors.marked else vectors.receive
            yield StageRequests(stage=Stage.MASK, requests=boxes, receive=receive)
            named, signatures = vectors.close_to_sign()
        yield StageRequests(stage=Stage.SIGN, requests=named, receive=_single(signatures.receive))
        requests, reveals = signatures.close()
    else:
        yield StageRequests(stage=Stage.MASK, requests=boxes, receive=vectors.receive)
        requests, reveals = vectors.close()
    yield StageRequests(stage=Stage.REVEAL, requests=requests, receive=_single(reveals.receive))
    total = reveals.close(expand)
    return Total(values=total.words, survivors=total.survivors)


def share_ahead(
    agreement: Agreement, advertised: Mapping[ClientId, bytes], *, entropy: Entropy = system
) -> tuple[dict[ClientId, bytes], CollectShares]:
    """The roster for each client whose keys came, and what takes its shares, before a proposal.

    Args:
      agreement: one whose public inputs are ``UNKNOWN``.

    Raises:
      TooFewSurvivors: these clients cannot sum among themselves.
    """
    keys = CollectKeys(agreement)
    _receive_known(keys, advertised)
    return keys.close(entropy)


def _receive_known(keys: CollectKeys, advertised: Mapping[ClientId, bytes]) -> set[ClientId]:
    """Take keys that came earlier; whose they are, of those that are good."""
    known = set()
    for client, message in advertised.items():
        with suppress(RemoteProtocolError):
            if Advertise.from_bytes(message, expect=keys.agreement.header).sender == client:
                known.add(keys.receive(message))
    return known


def relay_threshold_ckks(
    agreement: CkksAgreement,
    clients: Sequence[ClientId],
    *,
    holders: Sequence[ClientId] | None = None,
    lost: Callable[[], Container[ClientId]] = frozenset,
    chunks: "Chunks" = map,
) -> Relay:
    """A session of threshold ``protocols.ckks`` that opens one sum.

    Args:
      clients: who is asked for a vector.
      holders: of the key, by default the first clients. All of them must be there until it
        is made, and whoever of them answered with its upload must answer again.
      lost: tells, when all uploads are in, who would not answer again.
      chunks: how the parts of gone holders are rebuilt; it sees their keys.

    Raises:
      TooFewSurvivors, RemoteProtocolError: nothing was opened.
    """
    from protocols.ckks.server import CollectCommitments, CollectUploads

    committee = sorted(clients)[: agreement.params.holders] if holders is None else holders
    commitments = CollectCommitments(agreement, committee)
    yield StageRequests(
        stage=Stage.ADVERTISE,
        requests=dict.fromkeys(committee, b""),
        receive=_single(commitments.receive),
    )
    roster, openings = commitments.close()
    yield StageRequests(
        stage=Stage.SHARE,
        requests=dict.fromkeys(committee, roster),
        receive=_single(openings.receive),
    )
    opened, boxes, key = openings.close()
    uploads = CollectUploads(agreement, key, clients)
    came: list[ClientId] = []

    def receive(frames: Sequence[bytes]) -> ClientId:
        came.append(client := uploads.receive(frames))
        return client

    yield StageRequests(
        stage=Stage.MASK,
        requests={
            client: opaque(opened) + opaque(boxes.get(client, b"")) for client in sorted(clients)
        },
        receive=receive,
    )
    gone = lost()
    alive = [client for client in committee if client in came and client not in gone]
    request, partials = uploads.close_threshold(alive)
    yield StageRequests(
        stage=Stage.REVEAL,
        requests=dict.fromkeys(alive, request),
        receive=partials.receive,
    )
    total = partials.close(chunks=chunks)
    return Total(values=total.values, survivors=total.survivors)


def relay_shared_ckks(
    agreement: CkksAgreement, clients: Sequence[ClientId], *, key: bytes
) -> Generator[StageRequests, None, bytes]:
    """A round of ``protocols.ckks`` under a shared key, of which the server has the digest.

    Returns the sum as it is sent to every client, each of which opens it for itself.

    Raises:
      TooFewSurvivors, RemoteProtocolError: nothing was sent.
    """
    from protocols.ckks.server import CollectUploads

    uploads = CollectUploads(agreement, key, clients)
    yield StageRequests(
        stage=Stage.MASK, requests=dict.fromkeys(clients, b""), receive=uploads.receive
    )
    return uploads.close_shared()


def read_openings(message: bytes) -> tuple[bytes, bytes]:
    """The openings of a key, and a holder's boxes, out of a request to upload."""
    reader = Reader(message)
    opened, boxes = reader.opaque(), reader.opaque()
    reader.finish()
    return opened, boxes
