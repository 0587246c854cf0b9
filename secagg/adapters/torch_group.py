"""A process group of torch whose sums show no rank's part: its keys, and one collective of it.

``secagg.adapters.torch_distributed`` puts it under models, and is what to import.
"""

import hashlib
import math
import os
import struct
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from secagg.extras import missing

try:
    import torch
    import torch.distributed as dist
    from torch import Tensor
except ModuleNotFoundError as error:
    raise missing("secagg.adapters.torch_group", "torch", extra="train") from error

from protocols.errors import DecodeError, LocalProtocolError, ProtocolError
from protocols.primitives.prg import Suite
from protocols.wire import Reader, digest, opaque, u64
from protocols.zero_sharing import Agreement, AwaitTotal, Epoch, Flag, Params, join
from protocols.zero_sharing.params import TAIL_WORDS, tail
from secagg.adapters.torch_words import CannotTakePart, decode, decode_there, encode, encode_there
from secagg.errors import InputError, PeerError
from secagg.nodes.identities import Identity, Roster
from secagg.vectors.arrays import model_digest
from secagg.vectors.packing import lane_bits, lanes_for, word_count
from secagg.vectors.quantize import MAX_BITS, FixedPoint, Rounding

Words: TypeAlias = NDArray[np.uint64]
Group: TypeAlias = dist.ProcessGroup | None

LABEL: Final = b"secagg.adapters.torch_distributed 1"
TIMEOUT: Final = timedelta(minutes=5)  # gloo's own is 30 minutes, in which a stopped rank stops all
ENVELOPE: Final = 256  # bytes in which keys travel, whatever the version of who sends them
NO_PASS: Final = -1  # what torch says where it knows of no backward pass
LANES: Final = 3  # of 21 bits: 19 bits an entry for 4 ranks, 2.67 bytes each


@dataclass(frozen=True, slots=True, kw_only=True)
class _Running:
    """A collective on its way."""

    wait: AwaitTotal
    words: Tensor
    entries: int
    factor: float
    cause: Exception | None


class SecureGroup:
    """The keys of one process group, and how floats become words there.

    Args:
      group: of torch; by default all ranks. Every rank of it makes a ``SecureGroup`` with the same
        arguments, at the same point of the program.
      clip: largest magnitude of an entry of one rank, from 2^-500. What is beyond is an error.
      bits: of an entry; by default as many as the lanes hold for so many ranks.
      lanes: entries a word of 64 bits, 1 to 8. With 2 an entry takes the bytes of a float32, and
        its step is 2,000 times finer than with 3.
      rounding: ``"stochastic"`` is unbiased, and costs 0.8 ns an entry more.
      identity: this rank's signing key, with ``roster``: keys are then signed. Without them
        whoever runs the store that ranks meet in can read every gradient.
      roster: an operator's, in which client number r is rank r of all ranks.
      parameters: that all ranks of the group hold alike; their digest is agreed with the keys.
      scaler: whose scale the gradients carry.
      public: whatever else ranks must have in common.
      pair: two ranks are meant. Each then has the other's part, which is the sum less its own;
        masks hide both from who carries the words, and from nobody else.
      suite: of the masks; ``CHACHA20`` where tensors lie on a GPU, which then makes them there.
      timeout: the longest that a rank waits for another, set on that of all ranks and on the group;
        a shorter one of theirs stays, and that of all ranks holds for the group too.

    Raises:
      InputError: an argument is out of range, or the sum of all ranks' entries does not fit a lane.
      RemoteProtocolError: a rank is of another version, agrees to something else, or did not sign.
      PeerError: a rank is gone, or silent for longer than the timeout.
    """

    def __init__(
        self,
        group: Group = None,
        *,
        clip: float,
        bits: int | None = None,
        lanes: int = LANES,
        rounding: Rounding = "nearest",
        identity: Identity | None = None,
        roster: Roster | None = None,
        parameters: Callable[[], Mapping[str, Tensor]] | None = None,
        scaler: torch.amp.GradScaler | None = None,
        public: bytes = b"",
        pair: bool = False,
        suite: Suite = Suite.AES_128_CTR,
        timeout: timedelta = TIMEOUT,
    ) -> None:
        if (identity is None) is not (roster is None):
            raise InputError("identity and roster belong together: give both, or neither")
        self.group = world() if group is None else group
        self.members = dist.get_process_group_ranks(self.group)
        self.ranks, self.rank = len(self.members), dist.get_rank(self.group)
        if self.ranks == 2 and not pair:
            raise InputError(
                "of two ranks each has the other's part, the sum less its own: take three or more, "
                "or add noise; pair=True hides both from who carries the words alone"
            )
        self.timeout = shorten(self.group, shorten(world(), timeout))
        room = lane_bits(lanes) - (self.ranks - 1).bit_length()
        self.codec = FixedPoint(
            clip=clip, bits=min(room, MAX_BITS) if bits is None else bits, rounding=rounding
        )
        if lanes_for(self.ranks * self.codec.levels) < lanes:
            raise InputError(
                f"the sum of {self.ranks} ranks' entries of {self.codec.bits} bits does not fit "
                f"{lanes} lanes a word; use at most {room} bits"
            )
        self.lanes = lanes
        self._identity, self._roster, self._parameters = identity, roster, parameters
        self._scaler, self._public, self._suite = scaler, public, suite
        self._counter = self._after = 0
        self._epoch: Epoch | None = None
        self._failure: Exception | None = None  # of these keys, the first
        self._pending: Exception | None = None  # of this backward pass
        self._broken, self._pass = False, NO_PASS
        self._sent: deque[Any] = deque()  # buckets of this pass that are not decoded yet
        # What was sent last. Were gloo's thread the last to let go of a tensor of Python's, it
        # would need the interpreter for that, and a process that has ended by then aborts.
        self._held: list[Tensor] = []
        self.shared: Callable[[Exception | None], Exception | None] | None = None
        self._process = os.getpid()
        self.renew()

    def renew(self, *, clip: float | None = None) -> None:
        """Agree on new keys, on every rank at the same point of the program.

        Args:
          clip: another one from now on: a constant, or made of sums that all ranks have seen.

        Raises:
          RemoteProtocolError, PeerError: as when the group was made.
        """
        if self._epoch is not None:
            self._epoch.end()
        if self._broken:
            raise PeerError("a collective of this group failed; start all ranks again") from (
                self._failure
            )
        codec = self.codec
        if clip is not None:
            codec = FixedPoint(clip=clip, bits=codec.bits, rounding=codec.rounding)
        agreement = self._agreement(codec)
        keys: dict[str, Any] = {}
        if self._identity and self._roster:
            public = self._roster.identities
            if absent := [member for member in self.members if member not in public]:
                raise InputError(f"roster {self._roster.serial} has no client for rank {absent[0]}")
            named = {place: public[member] for place, member in enumerate(self.members)}
            keys = {"identity": self._identity.key, "identities": named}
        sent, waiting = join(agreement, self.rank, **keys)
        self._epoch = waiting.on_keys(self._exchange(sent))
        self.codec, self._failure, self._pending = codec, None, None
        self._counter = self._after = 0

    def _agreement(self, codec: FixedPoint) -> Agreement:
        numbers = struct.pack(">dBB", codec.clip, codec.bits, self.lanes)
        public = digest(
            LABEL,
            numbers,
            codec.rounding.encode(),
            self._roster.digest if self._roster else b"",
            model_digest(self._parameters()) if self._parameters else b"",
            self._public,
        )
        params = Params(ranks=self.ranks, suite=self._suite, signed=self._identity is not None)
        name = hashlib.sha256(LABEL + struct.pack(f">{self.ranks}I", *self.members)).digest()
        return Agreement(params=params, session=name[:16], round=0, public_digest=public)

    def _exchange(self, message: bytes) -> list[bytes]:
        """What every rank sends, ours too, in the order of ranks."""
        device = device_of(self.group)
        mine = torch.zeros(ENVELOPE, dtype=torch.uint8)
        mine[: 4 + len(message)] = torch.frombuffer(bytearray(opaque(message)), dtype=torch.uint8)
        all_of = [torch.empty(ENVELOPE, dtype=torch.uint8, device=device) for _ in self.members]
        self._transport(lambda: dist.all_gather(all_of, mine.to(device), group=self.group))
        found = []
        for rank, each in enumerate(all_of):
            try:
                found.append(Reader(each.cpu().numpy().tobytes()).opaque())
            except DecodeError:
                raise DecodeError(f"the key of rank {rank} is longer than its envelope") from None
        return found

    def all_reduce(self, tensor: Tensor, *, average: bool = False) -> Tensor:
        """See :func:`secure_all_reduce`."""
        self._after = self._counter
        try:
            running = self._begin(tensor, average=average)
            self._open(running, self._transport(lambda: self._all_reduce(running.words)), tensor)
        except (ProtocolError, PeerError) as error:
            self._spend(error)
            raise
        return tensor

    def sum_words(self, words: Words) -> Words:
        """Sum what ``Layout.encode`` makes, such as integers that hold their noise already.

        Raises:
          RemoteProtocolError, PeerError, LocalProtocolError: as of :func:`secure_all_reduce`.
        """
        self._after = self._counter
        vector = np.empty(len(words) + TAIL_WORDS, np.uint64)
        vector[:-TAIL_WORDS] = words
        try:
            wait = self._mask(self._alive(), vector)
            sent = torch.from_numpy(vector.view(np.int64)).to(device_of(self.group))
            total = self._transport(lambda: self._all_reduce(sent))
            return wait.open(total.cpu().numpy().view(np.uint64))
        except (ProtocolError, PeerError) as error:
            self._spend(error)
            raise

    def public_seed(self) -> bytes:
        """32 bytes that all ranks have, for the next sum alone; public, and fresh with the keys."""
        context = self._alive().context.digest
        return digest(LABEL, b"public seed", context, u64(self._counter))

    # One collective.

    def _begin(
        self, source: Tensor, *, average: bool, bucket: int = 0, shards: int = 1
    ) -> _Running:
        """Words of ``source`` under masks, on its device.

        Whatever goes wrong with the entries, the words leave: the others wait for them.
        """
        if not source.is_floating_point() or source.is_sparse:
            raise InputError(f"cannot sum {source.dtype} of layout {source.layout}; need floats")
        epoch = self._alive()
        entries, rest = divmod(source.numel(), shards)
        if rest or not entries:
            raise InputError(f"{source.numel()} entries are not those of {shards} shards")
        scale = self._scaler.get_scale() if self._scaler else 1.0
        how: dict[str, Any] = {"bucket": bucket, "shards": shards}
        begin = self._begin_there if self._stays(source) else self._begin_here
        wait, words, cause = begin(epoch, source, entries, scale, **how)
        return _Running(
            wait=wait,
            words=words,
            entries=entries,
            factor=self.codec.step * scale / (self.ranks if average else 1),
            cause=cause,
        )

    @staticmethod
    def _stays(source: Tensor) -> bool:
        """Whether entries become words where they lie, and only words leave the device."""
        return source.device.type != "cpu"

    def _begin_here(
        self, epoch: Epoch, source: Tensor, entries: int, scale: float, **how: int
    ) -> tuple[AwaitTotal, Tensor, Exception | None]:
        shards, size = how["shards"], word_count(entries, self.lanes)
        vector = np.empty(shards * (size + TAIL_WORDS), np.uint64)
        rows = vector.reshape(shards, -1)[:, :size]
        flag, cause = self._tried(lambda: encode(source, self._scaled(scale), rows, self.lanes))
        words = torch.from_numpy(vector.view(np.int64))
        return self._mask(epoch, vector, flag=flag, **how), words, cause

    def _begin_there(
        self, epoch: Epoch, source: Tensor, entries: int, scale: float, **how: int
    ) -> tuple[AwaitTotal, Tensor, Exception | None]:
        """The same on the device of ``source``; under ChaCha20 its masks are made there too."""
        from secagg.rounds.device import DeviceMasks, on_device

        shards, size = how["shards"], word_count(entries, self.lanes)
        rows = torch.zeros((shards, size + TAIL_WORDS), dtype=torch.int64, device=source.device)
        inside = rows[:, :size]
        flag, cause = self._tried(
            lambda: encode_there(source, self._scaled(scale), inside, self.lanes)
        )
        if flag is not None:
            rows.zero_()
        rows[:, size:] = torch.tensor(np.array(tail(flag), np.uint64).view(np.int64))
        counter, self._counter = self._counter, self._counter + 1  # whatever happens: never again
        masks, wait = epoch.begin_elsewhere(size, counter=counter, after=self._after, **how)
        words = rows.view(-1)
        streams = on_device(source.device)(masks, self._suite)
        if isinstance(streams, DeviceMasks):
            streams.apply_to_tensor(words)
        else:
            vector = words.cpu().numpy()
            streams.apply_to(vector.view(np.uint64))
            words.copy_(torch.from_numpy(vector))
        return wait, words, cause

    def _scaled(self, scale: float) -> FixedPoint:
        """Integers of gradients that carry the scale of mixed precision."""
        return FixedPoint(
            clip=self.codec.clip * scale, bits=self.codec.bits, rounding=self.codec.rounding
        )

    @staticmethod
    def _tried(encode: Callable[[], None]) -> tuple[Flag | None, Exception | None]:
        """What to tell the other ranks, who wait for our words whatever goes wrong."""
        try:
            encode()
        except CannotTakePart as reason:
            return reason.flag, None
        except Exception as reason:  # noqa: BLE001  # whatever it is, the other ranks are told
            return Flag.FAILED, reason
        return None, None

    def _mask(self, epoch: Epoch, vector: Words, **how: Any) -> AwaitTotal:
        counter, self._counter = self._counter, self._counter + 1  # whatever happens: never again
        return epoch.begin(vector, counter=counter, after=self._after, **how)

    def _open(self, running: _Running, total: Tensor, out: Tensor) -> None:
        """Write the decoded total over ``out``; nothing is written if it does not open."""
        try:
            words = running.wait.open(total.cpu().numpy().view(np.uint64))
        except ProtocolError as error:
            raise error from running.cause
        if self._stays(out):
            decode_there(total[:-TAIL_WORDS], out, running.factor, self.lanes)
        else:
            decode(words, out, running.factor, self.lanes)

    def _transport(self, collective: Callable[[], Any]) -> Any:
        """Run a collective of torch; ``PeerError`` if it fails, and the group is spent."""
        try:
            return collective()
        except RuntimeError as error:
            raise self._lost(error) from error

    def _lost(self, error: RuntimeError) -> PeerError:
        self._broken = True
        return PeerError(
            f"a rank is gone, or was silent for longer than {self.timeout}: start all ranks again "
            f"({str(error).splitlines()[0]:.200})"
        )

    def _spend(self, error: Exception) -> None:
        if self._epoch is not None:
            self._epoch.end()
        self._failure = self._failure or error

    def _alive(self) -> Epoch:
        if os.getpid() != self._process:
            raise LocalProtocolError("this group was made before a fork: make another here")
        if self._epoch is None or self._epoch.ended:
            raise LocalProtocolError(
                "the keys of this group are spent: call renew() on every rank"
            ) from self._failure
        return self._epoch

    # Inside a backward pass nothing is raised before its end: torch would lose the error's type or
    # its own place, and other ranks would wait in vain for the collectives of this pass.

    def _reduce(
        self, source: Tensor, out: Tensor, send: Callable[[Tensor], Tensor], **how: Any
    ) -> None:
        """A collective of a backward pass, from ``source`` to ``out``."""
        self._raise_at_end()
        running, words = self._begin_or_idle(source, out, **how)
        if words is None:
            return
        try:
            total = self._transport(lambda: send(words))
            if running is not None:
                self._open(running, total, out)
        except Exception as error:  # noqa: BLE001  # raised at the end of the pass
            self._fail(error, out)

    def _begin_or_idle(
        self, source: Tensor, out: Tensor, *, shards: int = 1, **how: Any
    ) -> tuple[_Running | None, Tensor | None]:
        """What to send: masked words; zeros where keys are spent; nothing where nobody listens."""
        try:
            running = self._begin(source, shards=shards, **how)
        except Exception as error:  # noqa: BLE001  # raised at the end of the pass
            self._fail(error, out)
            if self._broken:
                return None, None
            # Other ranks wait for as many words. These say nothing of ``source``, and no check
            # word counts them.
            size = word_count(source.numel() // shards, self.lanes) + TAIL_WORDS
            return None, torch.zeros(shards * size, dtype=torch.int64, device=source.device)
        return running, running.words

    def reduce_whole(self, gradient: Tensor) -> None:
        """Put the mean over the group in place of ``gradient``: a hook of HSDP."""
        self._after = self._counter
        self._reduce(gradient, gradient, self._all_reduce, average=True)

    def reduce_scatter(self, source: Tensor, out: Tensor, op: Any) -> None:
        """Put this rank's shard of the sum into ``out``: the reduce-scatter of FSDP."""
        self._after = self._counter
        average = op == dist.ReduceOp.AVG

        def send(words: Tensor) -> Tensor:
            if not average and op != dist.ReduceOp.SUM:
                raise InputError("a gradient divide factor is not secured: leave it as it is")
            total = torch.empty(len(words) // self.ranks, dtype=torch.int64, device=words.device)
            self._held = [words, total]
            _scatter(total, words, group=self.group, async_op=True).wait()
            return total

        self._reduce(source, out, send, average=average, shards=self.ranks)

    def reduce_bucket(self, bucket: Any) -> torch.futures.Future[Tensor]:
        """Put the mean into a bucket of DDP: a future, so that the pass goes on meanwhile.

        It is completed here, with the last bucket at the latest, and by no callback of gloo's own
        thread, which would need the interpreter when that may have ended.
        """
        buffer: Tensor = bucket.buffer()
        place: int = bucket.index()
        if place == 0:
            self._after = self._counter  # torch has waited for every bucket of the pass before
            self._sent.clear()
            self._held = []
        if bucket.is_last():
            self._raise_at_end()
        running, words = self._begin_or_idle(buffer, buffer, average=True, bucket=place)
        done: torch.futures.Future[Tensor] = torch.futures.Future(
            devices=[buffer.device] if buffer.is_cuda else None
        )
        work: Any = None
        if words is not None:
            self._held.append(words)
            try:
                work = self._transport(lambda: self._all_reduce(words, wait=False))
            except PeerError as error:
                self._fail(error, buffer)
        self._sent.append((work, running, buffer, done))
        while self._sent and (bucket.is_last() or self._has_come()):
            self._take(*self._sent.popleft())
        return done

    def _has_come(self) -> bool:
        """Whether the first bucket that was sent can be decoded without waiting."""
        work = self._sent[0][0]
        return work is None or bool(work.is_completed())

    def _take(
        self,
        work: Any,
        running: _Running | None,
        buffer: Tensor,
        done: torch.futures.Future[Tensor],
    ) -> None:
        try:
            if work is None or self._broken:
                raise PeerError("a bucket was not summed") from self._failure
            # A failed collective leaves this rank's own words in place, and no other sign.
            self._transport(work.wait)
            if running is not None:
                self._open(running, running.words, buffer)
        except Exception as error:  # noqa: BLE001  # raised at the end of the pass
            self._fail(error, buffer)
        done.set_result(buffer)

    def _all_reduce(self, words: Tensor, *, wait: bool = True) -> Any:
        work = dist.all_reduce(words, group=self.group, async_op=True)
        if wait:
            self._held = [words]
            work.wait()
            return words
        return work

    def _fail(self, error: Exception, out: Tensor) -> None:
        """Spoil what somebody might go on with, and raise ``error`` at the end of the pass."""
        self._spend(error)
        self._pending = self._pending or error
        with torch.no_grad():
            out.fill_(math.nan)

    def _raise_at_end(self) -> None:
        """Raise what failed once torch has finished its own work of this pass."""
        # What FSDP and checkpoints of torch use; nothing public tells a pass from the next.
        engine = torch.autograd.Variable._execution_engine  # noqa: SLF001
        this = torch._C._current_graph_task_id()  # noqa: SLF001
        if this == self._pass != NO_PASS:
            return
        self._pass = this

        def last() -> None:
            error, self._pending = self._pending, None
            if self.shared is not None:
                error = self.shared(error)
            if error is not None:
                self._spend(error)
                raise error

        # Callbacks run in the order in which they came, and DDP's own comes after this hook.
        engine.queue_callback(lambda: engine.queue_callback(last))


# Newer versions of torch call it so, and warn of the old name.
_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def device_of(group: dist.ProcessGroup) -> torch.device:
    """The device whose tensors the group's backend carries."""
    if "gloo" in dist.get_backend(group):
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def world() -> dist.ProcessGroup:
    """All ranks.

    Raises:
      InputError: ``init_process_group`` was not called.
    """
    if dist.group.WORLD is None:
        raise InputError("there are no ranks yet: call torch.distributed.init_process_group first")
    return dist.group.WORLD


def shorten(group: dist.ProcessGroup, timeout: timedelta) -> timedelta:
    """Let no rank of ``group`` wait longer for another; a shorter wait of its own stays.

    Returns:
      How long a rank waits.
    """
    backend = group._get_backend(device_of(group))  # noqa: SLF001  # nothing public tells it
    own: timedelta = getattr(getattr(backend, "options", None), "_timeout", timeout)
    group.set_timeout(min(own, timeout))
    return min(own, timeout)
