"""A rank of one epoch: keys once, then any number of sums.

    join              -> Advertise,        AwaitKeys
    .on_keys          -> Epoch

    epoch.begin masks a vector in place; what waits for its total opens it.

Ranks call ``begin`` with the same numbers, in any order of their own. An epoch ends with the
first total that does not open, or when its driver says so: counters of ranks may then differ,
and new keys are agreed. It is never stored, copied or pickled, so that no mask is used twice;
a driver does not go on with it in a forked process.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from protocols.checks import check_integer
from protocols.entropy import Entropy, system
from protocols.errors import (
    InputError,
    LocalProtocolError,
    RankFailed,
    RemoteProtocolError,
)
from protocols.primitives.aead import GMAC_KEY_SIZE, authenticators
from protocols.primitives.agree import KEY_SIZE, PrivateKey, refuse_low_order
from protocols.primitives.prg import MAX_WORDS, Expand, Mask, Masks, from_seed
from protocols.primitives.sign import SigningKey, refuse_shared, verify
from protocols.secrets import Once, Secret
from protocols.wire import ClientId, u64
from protocols.zero_sharing.messages import Advertise
from protocols.zero_sharing.params import (
    DIGEST_SIZE,
    FLAG_BITS,
    TAIL_WORDS,
    Agreement,
    Context,
    Flag,
    tail,
)

Words: TypeAlias = NDArray[np.uint64]


def join(
    agreement: Agreement,
    me: ClientId,
    entropy: Entropy = system,
    *,
    identity: SigningKey | None = None,
    identities: Mapping[ClientId, bytes] | None = None,
) -> tuple[bytes, "AwaitKeys"]:
    """Enter an epoch as rank ``me``: an ``Advertise`` for every rank, and the state that waits.

    Args:
      agreement: all that is public about the epoch, the same for every rank.
      me: our rank, 0 to ``params.ranks - 1``.
      entropy: gives 32 bytes.
      identity: where keys are signed: our long-lived signing key.
      identities: where keys are signed: every rank's public signing key, from somebody who does
        not carry the messages.

    Raises:
      InputError: ``me`` is no rank; identities are missing, given where nothing is signed, not
        those of the ranks, of small order, or one is that of two ranks.
    """
    params = agreement.params
    check_integer("rank", me, 0, params.ranks - 1)
    known = dict(identities or {})
    if params.signed is not (identity is not None) or params.signed is not bool(known):
        raise InputError("identity and identities must be given if keys are signed, and only then")
    if identity is not None:
        if known.keys() != set(range(params.ranks)):
            raise InputError(f"identities must be those of all ranks, 0 to {params.ranks - 1}")
        if known[me] != identity.public:
            raise InputError(f"identity must be that of rank {me} among the identities")
        refuse_shared(known)
    key = PrivateKey(Secret(entropy(KEY_SIZE)))
    message = Advertise(
        header=agreement.header,
        sender=me,
        agreement=agreement.tag,
        key=key.public,
        signature=identity.sign(agreement.advertised_by(me), key.public) if identity else b"",
    )
    sent = message.to_bytes()
    return sent, AwaitKeys(agreement=agreement, me=me, key=Once(key), sent=sent, identities=known)


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitKeys:
    """We have advertised our key."""

    agreement: Agreement
    me: ClientId
    key: Once[PrivateKey]
    sent: bytes
    identities: Mapping[ClientId, bytes]

    def on_keys(self, messages: Sequence[bytes]) -> "Epoch":
        """The epoch of these keys; this state is then used up.

        Args:
          messages: what every rank advertised, in the order of ranks, ours too.

        Raises:
          RemoteProtocolError: a message is missing, of another version, session or round, or not
            in its place; a rank agrees to something else; our own message was changed; two ranks
            have one key, or one has a key of low order; or a key is not signed by its identity.
        """
        params = self.agreement.params
        if len(messages) != params.ranks:
            raise RemoteProtocolError(f"{len(messages)} keys, one of each of {params.ranks} needed")
        keys: dict[ClientId, bytes] = {}
        for rank, data in enumerate(messages):
            read = Advertise.from_bytes(data, expect=self.agreement.header, signed=params.signed)
            if read.sender != rank:
                raise RemoteProtocolError(f"the key of rank {read.sender} in place of rank {rank}")
            if read.agreement != self.agreement.tag:
                raise RemoteProtocolError(
                    f"rank {rank} agrees to something else: SHA-256 of its agreement begins with "
                    f"{read.agreement.hex()}, of ours with {self.agreement.tag.hex()}"
                )
            refuse_low_order(read.key)
            if params.signed:
                self._check_signature(read)
            keys[rank] = read.key
        if messages[self.me] != self.sent:
            raise RemoteProtocolError("our own key was changed on its way")
        if len(set(keys.values())) < len(keys):
            raise RemoteProtocolError("two ranks have one key")
        ours, context = self.key.take(), self.agreement.context(keys, self.identities)
        seeds: dict[ClientId, Secret] = {}
        for rank, theirs in keys.items():
            if rank != self.me:
                (seeds[rank],) = ours.agree(theirs, context.pair(self.me, rank))
        return Epoch(self.agreement, self.me, context, seeds)

    def _check_signature(self, read: Advertise) -> None:
        label = self.agreement.advertised_by(read.sender)
        try:
            verify(self.identities[read.sender], label, read.key, read.signature)
        except RemoteProtocolError:
            raise RemoteProtocolError(
                f"the key of rank {read.sender} is not signed by its identity"
            ) from None


class Epoch:
    """The seeds that a rank shares with each other one, and what was masked with them."""

    __slots__ = (
        "_after",
        "_agreement",
        "_context",
        "_ended",
        "_me",
        "_next",
        "_seeds",
        "_seen",
        "_waits",
    )

    def __init__(
        self, agreement: Agreement, me: ClientId, context: Context, seeds: Mapping[ClientId, Secret]
    ) -> None:
        self._agreement, self._me, self._context, self._seeds = agreement, me, context, dict(seeds)
        self._ended = False
        self._next = self._after = 0
        self._seen = {rank: bytes(DIGEST_SIZE) for rank in seeds}
        # What was begun and is not yet in ``_seen``, by counter: authenticators once it is open.
        self._waits: dict[int, dict[ClientId, bytes] | None] = {}

    @property
    def context(self) -> Context:
        """The hash of every public input and key; the same on all ranks that will cancel."""
        return self._context

    @property
    def ended(self) -> bool:
        """Whether nothing more may be masked with these keys."""
        return self._ended

    def end(self) -> None:
        """Mask nothing more: a collective failed, and ranks may have counted differently."""
        self._ended = True
        self._seeds.clear()

    def begin(
        self,
        vector: Words,
        *,
        counter: int,
        bucket: int = 0,
        shards: int = 1,
        after: int = 0,
        flag: Flag | None = None,
        expand: Expand = Masks,
    ) -> "AwaitTotal":
        """Mask ``vector`` in place; the sum of all ranks' vectors is then their inputs' sum.

        Args:
          vector: for each shard its input words and two more, which are written here: the flag
            word and the check word. With one shard all ranks get the total, with more each its
            own shard of it.
          counter: of this collective, above that of every one before.
          bucket: a number of the application's.
          shards: in which a reduce-scatter cuts the vector.
          after: totals of collectives below this counter are in the masks. All of them were
            opened, and it never falls.
          flag: this rank cannot take part, and why: its input becomes zeros, and ``open`` raises
            on all ranks.

        Raises:
          LocalProtocolError: the epoch has ended, the counter was used, a total below ``after`` is
            not open, or the vector is none of that many shards. Nothing was masked.
        """
        words = self._words_of(vector, shards)
        masks, wait = self.begin_elsewhere(
            words, counter=counter, bucket=bucket, shards=shards, after=after
        )
        if flag is not None:
            vector.fill(0)
        rows = vector.reshape(shards, words + TAIL_WORDS)
        rows[:, words:] = tail(flag)
        expand(masks, self._agreement.params.suite).apply_to(vector)
        return wait

    def begin_elsewhere(
        self, words: int, *, counter: int, bucket: int = 0, shards: int = 1, after: int = 0
    ) -> tuple[list[Mask], "AwaitTotal"]:
        """The masks of a vector that is not in this process' memory, such as on a device.

        The caller does what :meth:`begin` does: it writes ``tail`` behind each shard's input words,
        or zeros and a flag's, and puts each mask on the whole once, before anything leaves.

        Args:
          words: input words of a shard.

        Raises:
          InputError, LocalProtocolError: as :meth:`begin`.
        """
        self._check(words, counter, bucket, shards, after)
        self._next, self._after = counter + 1, after
        self._take_in(after)
        self._waits[counter] = None
        about = {
            "counter": counter,
            "bucket": bucket,
            "words": words,
            "shards": shards,
            "after": after,
        }
        masks = [
            Mask(
                seed=seed,
                label=self._context.mask(**about, seen=self._seen[rank]),
                subtract=self._me < rank,
            )
            for rank, seed in self._seeds.items()
        ]
        ranks = self._agreement.params.ranks
        return masks, AwaitTotal(
            epoch=self, ranks=ranks, counter=counter, words=words, shards=shards
        )

    def _check(self, words: int, counter: int, bucket: int, shards: int, after: int) -> None:
        check_integer("bucket", bucket, 0)
        check_integer("shards", shards, 1)
        check_integer("counter", counter, 0, 2**64 - 1)
        check_integer("after", after, self._after, counter)
        check_integer("words", words, 1, MAX_WORDS // shards - TAIL_WORDS)
        if self._ended:
            raise LocalProtocolError(_OVER)
        if counter < self._next:
            raise LocalProtocolError(f"counter {counter} was used: a mask never hides two vectors")
        if any(number < after and tags is None for number, tags in self._waits.items()):
            raise LocalProtocolError(f"a total below {after} was not opened")

    @staticmethod
    def _words_of(vector: Words, shards: int) -> int:
        """Input words of a shard, of a vector that can be masked in place."""
        check_integer("shards", shards, 1)
        size, rest = divmod(vector.size, shards)
        if (
            vector.dtype != np.uint64
            or vector.ndim != 1
            or not vector.flags.c_contiguous
            or rest
            or not TAIL_WORDS < size <= MAX_WORDS // shards
        ):
            raise InputError(
                f"{vector.dtype}{list(vector.shape)} is no vector of {shards} shards, each of one "
                "word and more and its flag and check words"
            )
        return size - TAIL_WORDS

    def _take_in(self, after: int) -> None:
        """Move what was seen below ``after`` into each pair's digest, in the order of counters."""
        for counter in sorted(number for number in self._waits if number < after):
            for rank, tag in (self._waits.pop(counter) or {}).items():
                self._seen[rank] = hashlib.sha256(self._seen[rank] + u64(counter) + tag).digest()

    def take(self, counter: int, total: Words, shards: int) -> None:
        """Keep what we saw as a total, authenticated for each other rank; ``open`` calls it.

        Of a reduce-scatter each rank sees another part, and nothing is kept.
        """
        if self._waits.get(counter, {}) is not None:
            raise LocalProtocolError(f"the total of collective {counter} was opened")
        if shards > 1:
            self._waits[counter] = {}
            return
        label = self._context.total(counter)
        keys = [Secret(from_seed(seed, label)(GMAC_KEY_SIZE)) for seed in self._seeds.values()]
        self._waits[counter] = dict(zip(self._seeds, authenticators(keys, total), strict=True))

    def __reduce__(self) -> NoReturn:
        raise TypeError("an Epoch is neither pickled nor copied: two copies would mask alike")


@dataclass(frozen=True, slots=True, kw_only=True)
class AwaitTotal:
    """Our masked vector is on its way, and its total comes back."""

    epoch: Epoch = field(repr=False)
    ranks: int
    counter: int
    words: int
    shards: int

    def open(self, total: Words) -> Words:
        """The sum of all ranks' inputs, a part of ``total``.

        Args:
          total: of all vectors modulo 2**64, or of our shard of them.

        Raises:
          RemoteProtocolError: the check word does not count every rank: one is missing, was added
            twice, or saw other totals. The epoch is over.
          RankFailed: a rank could not take part; every rank raises the same. The epoch is over.
          LocalProtocolError: the total is no such array, or was opened before.
        """
        if total.dtype != np.uint64 or total.shape != (self.words + TAIL_WORDS,):
            raise InputError(f"{total.dtype}{list(total.shape)} is no total of {self.words} words")
        if self.epoch.ended:
            raise LocalProtocolError(_OVER)
        flags, check = int(total[-2]), int(total[-1])
        counts = {flag.name: flags >> FLAG_BITS * flag & 2**FLAG_BITS - 1 for flag in Flag}
        if check != self.ranks or flags >> FLAG_BITS * len(Flag):
            self.epoch.end()
            raise RemoteProtocolError(
                f"the check word does not count the {self.ranks} ranks: one is missing, was added "
                "twice, or was shown other totals; nothing was released"
            )
        if flags:
            self.epoch.end()
            raise RankFailed(counts)
        self.epoch.take(self.counter, total, self.shards)
        return total[: self.words]


_OVER = "this epoch is over: every rank agrees on new keys"
