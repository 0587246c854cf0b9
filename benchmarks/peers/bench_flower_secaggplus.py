"""A round of 100 or 20 clients over 10**6 entries, a tenth dropped, beside Flower's SecAgg+.

Both sides do the same work on one machine, in turn, and the clock counts CPU
seconds: floats are weighted, clipped to [-8, 8] and rounded stochastically to as
many levels, masked, summed, unmasked and divided by the sum of the weights; a
majority of shares opens a secret.

Flower's side is its own code. A client is the four stage functions of
``secaggplus_mod``, without the messages and the saved state around them; a server
is the two stage methods of ``SecAggPlusWorkflow`` that hold work, over a grid that
answers at once. What is chosen for it is what serves it best: the model is one
array, node numbers are small, its server forwards no boxes. That server rebuilds
secrets and masks one by one, so ten of the owners (9 alive, 1 dropped) are timed
and stand for all; the rest of the stage is timed alone and counted once. Levels
and modulus change neither its time nor its bytes.

The complete graph is compared at 14 bits, where our entries lie three in a word, and
at Flower's default of 22, where two do; and a ring of 28 neighbours on both sides, with
threshold 15 there and the planned one here.
"""

import functools
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

from protocols.bonawitz import Agreement, CollectKeys, CollectVectors, Params, Rates, join
from protocols.entropy import system
from protocols.primitives.prg import Expand, Masks
from protocols.testing import insecure_entropy
from secagg.bench.measure import Clock as Wall
from secagg.bench.measure import Interleaved, Timed
from secagg.bench.measure import Work as Timeable
from secagg.rounds.masking import threads
from secagg.vectors.layout import Count, Layout, Segment
from secagg.vectors.quantize import FixedPoint

if find_spec("flwr") is None:
    pytest.skip("no Flower to compare with: pip install '.[bench]'", allow_module_level=True)

from flwr.app import ConfigRecord, RecordDict
from flwr.client.mod.secure_aggregation.secaggplus_mod import (
    SecAggPlusState,
    _collect_masked_vectors,
    _setup,
    _share_keys,
    _unmask,
)
from flwr.common import (
    Code,
    FitRes,
    Status,
    ndarray_to_bytes,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.common.secure_aggregation.crypto.shamir import create_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import encrypt, generate_shared_key
from flwr.common.secure_aggregation.quantization import quantize
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key
from flwr.common.secure_aggregation.secaggplus_utils import (
    pseudo_rand_gen,
    share_keys_plaintext_concat,
)
from flwr.common.serde import recorddict_to_proto
from flwr.compat.common.recorddict_compat import fitres_to_recorddict
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.server.workflow.secure_aggregation.secaggplus_workflow import WorkflowState
from flwr.supercore.primitives.asymmetric import (
    bytes_to_private_key,
    bytes_to_public_key,
    generate_key_pairs,
    private_key_to_bytes,
    public_key_to_bytes,
)
from flwr.supercore.task_identity import TaskIdentity

ENTRIES = 10**6
TEN = range(10)  # nine of them alive, as of all
ME = 0
CLIP, WEIGHT, MAX_WEIGHT = 8.0, 600, 1000  # clip and largest weight are Flower's defaults
MODULUS = 2**32  # Flower's default; its entries travel as int64 whatever it is
REPEATS = 7  # a median is held with 95 % from 6 on

Words = NDArray[np.uint64]
Measure = Callable[..., Interleaved]
Work = Callable[["Clock"], object]


class Clock:
    """Seconds of each stage of one client or server, of the CPU by default."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.stages: dict[str, float] = {}
        self._now = now

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        begin = self._now()
        yield
        self.stages[stage] = self._now() - begin


def timed(
    work: Callable[[Clock], object], now: Callable[[], float] = time.process_time
) -> Timeable:
    """``work``, which times its own stages."""

    def contender() -> Timed:
        clock = Clock(now)
        result = work(clock)
        return Timed(seconds=clock.stages, result=result)

    return contender


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is compared: bits of an entry, and how many of the clients Flower's client knows."""

    bits: int
    clients: int = 100
    shares: int = 100
    threshold: int = 51  # the least that is safe in a complete graph of 100

    @property
    def alive(self) -> list[int]:
        return [client for client in range(self.clients) if client % 10 != 9]

    @property
    def levels(self) -> int:
        return 1 << self.bits

    @property
    def ratio(self) -> float:
        """A client's weight as Flower rounds it, on both sides."""
        return round(WEIGHT / MAX_WEIGHT * self.levels) / self.levels


RATES = Rates(corrupt_fraction="0.05", dropout="0.33")  # plans 28 neighbours for 100 clients

CASES = pytest.mark.parametrize(
    "case",
    [
        pytest.param(Case(bits=14), id="complete"),
        pytest.param(Case(bits=22), id="complete-22-bits"),
        pytest.param(Case(bits=14, shares=29, threshold=15), id="28-neighbours"),
        pytest.param(Case(bits=16, clients=20, shares=20, threshold=11), id="20-clients"),
    ],
)
UPDATE = np.random.default_rng(0).normal(0, 1, ENTRIES).astype(np.float32)


# Ours


class Ours:
    """One recorded round, of which any party can be run again."""

    def __init__(self, case: Case) -> None:
        codec = FixedPoint(clip=CLIP, bits=case.bits)
        self.case = case
        self.layout = Layout(
            segments=(
                Segment(name="update", entries=ENTRIES, codec=codec),
                Segment(name="weight", entries=1, codec=Count(maximum=case.levels)),
            ),
            clients=case.clients,
        )
        sparse = case.shares < case.clients
        self.agreement = Agreement(
            params=Params(
                clients=case.clients,
                threshold=None if sparse else case.threshold,
                rates=RATES if sparse else None,
                words=self.layout.words,
            ),
            session=system(16),
            round=1,
            public_digest=hashlib.sha256(self.layout.to_bytes()).digest(),
        )
        words = self.encode()
        joined = [
            join(self.agreement, client, insecure_entropy(client)) for client in range(case.clients)
        ]
        self.keys = [message for message, _ in joined]
        collect = CollectKeys(self.agreement)
        for message in self.keys:
            collect.receive(message)
        self.rosters, shares = collect.close(insecure_entropy(case.clients))
        shared = [state.on_roster(self.rosters[n]) for n, (_, state) in enumerate(joined)]
        self.shares = [message for message, _ in shared]
        for message in self.shares:
            shares.receive(message)
        self.boxes, vectors = shares.close()
        masked = [shared[client][1].on_boxes(self.boxes[client], words) for client in case.alive]
        self.vectors = [list(frames) for frames, _ in masked]
        for frames in self.vectors:
            vectors.receive(frames)
        self.survivors, _ = vectors.close()
        alive = zip(case.alive, masked, strict=True)
        self.answers = [state.on_survivors(self.survivors[n]) for n, (_, state) in alive]

    def encode(self) -> Words:
        ratio = self.case.ratio
        weight = round(ratio * self.case.levels)
        return self.layout.encode({"update": UPDATE * np.float32(ratio), "weight": weight})

    def client(self, clock: Clock, expand: Expand = Masks) -> int:
        """All four stages; returns the bytes that went up."""
        with clock("advertise"):
            keys, roster = join(self.agreement, ME, insecure_entropy(ME))
        with clock("share"):
            shares, boxes = roster.on_roster(self.rosters[ME])
        with clock("quantise"):
            words = self.encode()
        with clock("mask"):
            parts, survivors = boxes.on_boxes(self.boxes[ME], words, expand=expand)
            frames = list(parts)
        with clock("reveal"):
            answer = survivors.on_survivors(self.survivors[ME])
        return sum(map(len, (keys, shares, *frames, answer)))

    def waiting(self) -> CollectVectors:
        keys = CollectKeys(self.agreement)
        for message in self.keys:
            keys.receive(message)
        _, shares = keys.close(insecure_entropy(self.case.clients))  # the same graph again
        for message in self.shares:
            shares.receive(message)
        return shares.close()[1]

    def server(self, clock: Clock) -> NDArray[np.float64]:
        """From the first masked vector to the weighted mean."""
        vectors = self.waiting()
        with clock("collect"):
            for frames in self.vectors:
                vectors.receive(frames)
        with clock("unmask"):
            _, reveals = vectors.close()
            for answer in self.answers:
                reveals.receive(answer)
            total = reveals.close()
        with clock("decode"):
            sums = self.layout.decode(total.words)
            mean: NDArray[np.float64] = sums["update"] * (self.case.levels / sums["weight"][0])
        return mean


# Theirs


def on_the_wire(reply: dict[str, Any]) -> int:
    """Bytes of a reply as Flower serialises it, without the message around it."""
    content = RecordDict({RECORD_KEY_CONFIGS: ConfigRecord(reply, keep_input=False)})
    return len(recorddict_to_proto(content).SerializeToString())


class FlowerClient:
    """The stages of ``secaggplus_mod``, and peers who answer them."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.parameters = ndarrays_to_parameters([UPDATE])
        self.peers = [set_up(case, number) for number in range(1, case.shares)]
        self.seed_shares = create_shares(system(32), case.threshold, case.shares)
        self.key_shares = create_shares(self.peers[0].sk1, case.threshold, case.shares)
        self.alive = [peer.nid for peer in self.peers if peer.nid in self.case.alive]

    def __call__(self, clock: Clock) -> int:
        """All four stages; returns the bytes that went up."""
        state = SecAggPlusState()
        state.nid = ME
        with clock("advertise"):
            keys = _setup(state, ConfigRecord(setting(self.case)))
        everyone = [state, *self.peers]
        with clock("share"):
            shares = _share_keys(
                state, ConfigRecord({str(one.nid): [one.pk1, one.pk2] for one in everyone})
            )
        boxes = [self.box(one, state) for one in self.peers]
        with clock("mask"):
            masked = _collect_masked_vectors(
                state,
                ConfigRecord(
                    {Key.CIPHERTEXT_LIST: boxes, Key.SOURCE_LIST: [peer.nid for peer in self.peers]}
                ),
                WEIGHT,
                self.parameters,
            )
        dead = [peer.nid for peer in self.peers if peer.nid not in self.case.alive]
        with clock("reveal"):
            revealed = _unmask(
                state,
                ConfigRecord(
                    {Key.ACTIVE_NODE_ID_LIST: [ME, *self.alive], Key.DEAD_NODE_ID_LIST: dead}
                ),
            )
        return sum(map(on_the_wire, (keys, shares, masked, revealed)))

    def box(self, sender: SecAggPlusState, me: SecAggPlusState) -> bytes:
        key = generate_shared_key(bytes_to_private_key(sender.sk2), bytes_to_public_key(me.pk2))
        pair = self.seed_shares[sender.nid], self.key_shares[sender.nid]
        return encrypt(key, share_keys_plaintext_concat(sender.nid, ME, *pair))


def setting(case: Case) -> dict[str, Any]:
    return {
        Key.SAMPLE_NUMBER: case.clients,
        Key.SHARE_NUMBER: case.shares,
        Key.THRESHOLD: case.threshold,
        Key.CLIPPING_RANGE: CLIP,
        Key.TARGET_RANGE: case.levels,
        Key.MOD_RANGE: MODULUS,
        Key.MAX_WEIGHT: float(MAX_WEIGHT),
    }


def set_up(case: Case, number: int) -> SecAggPlusState:
    state = SecAggPlusState()
    state.nid = number
    _setup(state, ConfigRecord(setting(case)))
    return state


class FlowerServer:
    """``SecAggPlusWorkflow`` from the first masked vector on, and a grid that answers at once."""

    def __init__(self, case: Case) -> None:
        self.workflow = SecAggPlusWorkflow(
            case.shares,
            case.threshold,
            max_weight=MAX_WEIGHT,
            clipping_range=CLIP,
            quantization_range=case.levels,
            modulus_range=MODULUS,
        )
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1  # of its messages
        self.case = case
        pairs = [generate_key_pairs() for _ in range(case.clients)]
        self.public = {n: [public_key_to_bytes(pk)] * 2 for n, (_, pk) in enumerate(pairs)}
        keys = {n: private_key_to_bytes(sk) for n, (sk, _) in enumerate(pairs)}
        secrets = {n: system(32) if n in case.alive else keys[n] for n in TEN}
        self.shares = {
            owner: dict(
                zip(
                    self.neighbours(owner),
                    create_shares(secret, case.threshold, case.shares),
                    strict=True,
                )
            )
            for owner, secret in secrets.items()
        }

        factor = round(case.ratio * case.levels)
        (levels,) = quantize([UPDATE.astype(np.float64) * case.ratio], CLIP, case.levels)
        summed = [np.array([factor]), levels.astype(np.int64)]
        self.upload = [ndarray_to_bytes(array) for array in summed]
        self.bare = [len(case.alive) * array for array in summed]
        self.masked = self.bare
        for sign, seed in self.masks(secrets):
            mask = pseudo_rand_gen(seed, MODULUS, [array.shape for array in summed])
            self.masked = [a + sign * m for a, m in zip(self.masked, mask, strict=True)]

    def masks(self, secrets: dict[int, bytes]) -> Iterator[tuple[int, bytes]]:
        """What was added for the clients of ``TEN`` and is still there: a sign and a seed."""
        for owner, secret in secrets.items():
            if owner in self.case.alive:
                yield 1, secret
                continue
            for other in self.neighbours(owner) - {owner}:
                theirs = bytes_to_public_key(self.public[other][0])
                yield (
                    1 if other > owner else -1,
                    generate_shared_key(bytes_to_private_key(secret), theirs),
                )

    def neighbours(self, node: int) -> set[int]:
        """Its ring, as the workflow lays it, itself included."""
        half = self.case.shares // 2
        return {(node + offset) % self.case.clients for offset in range(-half, half + 1)}

    def __call__(self, clock: Clock) -> NDArray[np.float64]:
        """From the first masked vector to the weighted mean; ten owners of the unmasking."""
        collected = self.state(range(self.case.clients))
        with clock("collect"):
            arrived = self.workflow.collect_masked_vectors_stage(
                grid([self.result(node) for node in self.case.alive]), context(None), collected
            )
        assert arrived
        idle, _ = self.unmask((), self.bare)
        ten, mean = self.unmask(TEN, self.masked)
        clock.stages["unmask"] = self.case.clients / len(TEN) * (ten - idle)
        clock.stages["decode"] = idle
        return mean

    def unmask(
        self, owners: Sequence[int], vector: list[NDArray[Any]]
    ) -> tuple[float, NDArray[np.float64]]:
        state = self.state(owners)
        state.aggregate_ndarrays = vector
        fitres: Any = SimpleNamespace(parameters=None)
        nobody: Any = None
        state.legacy_results = [(nobody, fitres)]
        strategy = SimpleNamespace(aggregate_fit=lambda *_: (None, {}))
        replies = []
        for node in self.case.alive:
            asked = [owner for owner in owners if node in self.shares[owner]]
            shares = [self.shares[owner][node] for owner in asked]
            reply = ConfigRecord({Key.NODE_ID_LIST: asked, Key.SHARE_LIST: shares})
            replies.append(answer(node, RecordDict({RECORD_KEY_CONFIGS: reply})))
        begin = time.process_time()
        done = self.workflow.unmask_stage(grid(replies), context(strategy), state)
        seconds = time.process_time() - begin
        assert done
        return seconds, parameters_to_ndarrays(fitres.parameters)[0]

    def state(self, owners: Sequence[int]) -> WorkflowState:
        proxies: Any = dict.fromkeys(self.case.alive)
        return WorkflowState(
            nid_to_proxies=proxies,
            nid_to_fitins={node: RecordDict() for node in range(self.case.clients)},
            sampled_node_ids=set(owners),
            active_node_ids=set(self.case.alive),
            num_shares=self.case.shares,
            threshold=self.case.threshold,
            clipping_range=CLIP,
            quantization_range=self.case.levels,
            mod_range=MODULUS,
            max_weight=MAX_WEIGHT,
            nid_to_neighbours={node: self.neighbours(node) for node in range(self.case.clients)},
            nid_to_publickeys=self.public,
            forward_srcs={node: [] for node in range(self.case.clients)},
            forward_ciphertexts={node: [] for node in range(self.case.clients)},
        )

    def result(self, node: int) -> Any:
        fitres = FitRes(Status(Code.OK, ""), ndarrays_to_parameters([]), WEIGHT, {})
        content = fitres_to_recorddict(fitres, keep_input=False)
        content.config_records[RECORD_KEY_CONFIGS] = ConfigRecord(
            {Key.MASKED_PARAMETERS: self.upload}
        )
        return answer(node, content)


# What Flower's server stands between, as far as its two stages look at it: hence Any.


def grid(replies: list[Any]) -> Any:
    """Answers a stage with messages that have been there all along."""
    return SimpleNamespace(send_and_receive=lambda _, timeout: replies)


def answer(node: int, content: RecordDict) -> Any:
    metadata = SimpleNamespace(src_node_id=node)
    return SimpleNamespace(metadata=metadata, content=content, has_error=lambda: False)


def context(strategy: object) -> Any:
    records = {MAIN_CONFIGS_RECORD: {WorkflowKey.CURRENT_ROUND: 1}}
    return SimpleNamespace(state=SimpleNamespace(config_records=records), strategy=strategy)


# Side by side


@functools.cache
def recorded(case: Case) -> Ours:
    return Ours(case)


def compare(
    interleaved: Measure, benchmark: BenchmarkFixture, case: Case, ours: Work, theirs: Work
) -> Interleaved:
    found = interleaved(
        {"ours": timed(ours), "theirs": timed(theirs)}, "ours", beside="x25519", rounds=REPEATS
    )
    benchmark.extra_info.update(
        flwr=version("flwr"),
        their_shares=case.shares,
        their_threshold=case.threshold,
        bits=case.bits,
        lanes=recorded(case).layout.lanes[0],
        times_faster=found.ratio("theirs", "ours").as_dict(),
    )
    return found


@CASES
def test_client(interleaved: Measure, benchmark: BenchmarkFixture, case: Case) -> None:
    found = compare(interleaved, benchmark, case, recorded(case).client, FlowerClient(case))
    ours, theirs = found.last["ours"], found.last["theirs"]
    assert isinstance(ours, int)
    assert isinstance(theirs, int)
    benchmark.extra_info["bytes"] = {"our_up": ours, "their_up": theirs}
    benchmark.extra_info["upload_ratio"] = round(ours / theirs, 4)


@CASES
def test_client_on_two_cores(interleaved: Measure, benchmark: BenchmarkFixture, case: Case) -> None:
    """By the clock on the wall, Flower's on the one core that it uses.

    Medians say what a busy machine allowed, ``quickest`` what it can.
    """
    ours, wall = recorded(case), time.perf_counter
    two = functools.partial(ours.client, expand=threads(2))
    found = interleaved(
        {
            "ours": timed(two, wall),
            "on_one": timed(ours.client, wall),
            "theirs": timed(FlowerClient(case), wall),
        },
        "ours",
        rounds=REPEATS,
        clock=Wall.WALL,
    )
    quickest = {name: min(found.seconds[name]) for name in ("ours", "on_one", "theirs")}
    benchmark.extra_info.update(
        times_faster=found.ratio("theirs", "ours").as_dict(),
        times_faster_on_one=found.ratio("theirs", "on_one").as_dict(),
        quickest={name: round(quickest["theirs"] / quickest[name], 1) for name in quickest},
    )


@CASES
def test_server(interleaved: Measure, benchmark: BenchmarkFixture, case: Case) -> None:
    found = compare(interleaved, benchmark, case, recorded(case).server, FlowerServer(case))
    benchmark.extra_info["their_unmask_timed"] = "ten owners, for all"
    step = 2 * CLIP / (case.levels - 2) / case.ratio
    for mean in (found.last["ours"], found.last["theirs"]):
        assert isinstance(mean, np.ndarray)
        assert np.abs(mean - UPDATE).max() <= 1.1 * step  # a tenth for the rounding of float32
