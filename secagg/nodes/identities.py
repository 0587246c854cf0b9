"""Identities against a server that may lie: key files, and the roster that an operator signs.

Every node makes a key of its own and hands the public half to an operator, who is
not the server. The operator signs which client number has which identity. A node
that was told the operator's public key may take the roster from anybody.

    PATH        secagg identity 1 | name NAME | public HEX | secret HEX       mode 0600
    PATH.pub    secagg public identity 1 | name NAME | public HEX             mode 0644
    roster      {"roster":BODY,"signature":HEX}
    BODY        {"format":"secagg roster 1","members":[{"name":NAME,"number":N,"public":HEX},...],
                "operator":{"name":NAME,"public":HEX},"serial":N}

``|`` is a line break; each file ends in one. HEX is lower case, a roster has no blanks, and
its members stand by ascending number: one value has one encoding, and no other is read.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from protocols.bonawitz import ClientId
from protocols.entropy import Entropy, system
from protocols.errors import RemoteProtocolError
from protocols.primitives.sign import SigningKey, refuse_weak, verify
from protocols.secrets import Secret
from protocols.wire import opaque
from secagg.errors import IdentityError
from secagg.files import read_file, write_new

FORMAT = b"secagg roster 1"  # and the label of its signature
LARGEST_KEY_FILE = 1024  # bytes; the longest name makes 232
LARGEST_ROSTER = 2**25  # bytes; 100,000 members with the longest names make 17.2 MB
SECRET_SIZE = 32  # bytes, RFC 8032 section 5.1.5

_NAME = "[A-Za-z0-9._-]{1,64}"
_SHOWN = f"name ({_NAME})\npublic ([0-9a-f]{{64}})\n"
_PUBLIC_FILE = re.compile(f"secagg public identity 1\n{_SHOWN}".encode())
_PRIVATE_FILE = re.compile(f"secagg identity 1\n{_SHOWN}secret ([0-9a-f]{{64}})\n".encode())
_ROSTER_FILE = re.compile(
    rb'\{"roster":(\{"format":"%b",.*\}),"signature":"([0-9a-f]{128})"\}\n' % FORMAT
)


class PublicIdentity(NamedTuple):
    """A name, 1 to 64 of A-Z a-z 0-9 . _ -, and the 32 bytes of an Ed25519 public key.

    Attributes:
      name: whose it is said to be.
      public: the key, 32 bytes.
    """

    name: str
    public: bytes


@dataclass(frozen=True, slots=True)
class Identity:
    """A name and its signing key; nothing that prints shows the secret half.

    Attributes:
      name: 1 to 64 of A-Z a-z 0-9 . _ -
      key: Ed25519; its secret half is never printed.
    """

    name: str
    key: SigningKey

    @property
    def shown(self) -> PublicIdentity:
        """The public half, which everybody may know."""
        return PublicIdentity(self.name, self.key.public)


def fingerprint(public: bytes) -> str:
    """SHA-256 of a public key in eight groups of hex digits, to compare by telephone.

    >>> fingerprint(bytes(32))[:17]
    '66687aad f862bd77'

    Args:
      public: 32 bytes.
    """
    return hashlib.sha256(public).digest().hex(" ", 4)


def create_identity(path: str | Path, name: str, entropy: Entropy = system) -> Identity:
    """A new identity in ``path``, which only its owner may read, and its public half in PATH.pub.

    Both are on disk when this returns.

    Args:
      path: of a file that is not there yet.
      name: 1 to 64 of A-Z a-z 0-9 . _ -
      entropy: gives 32 bytes.

    Raises:
      IdentityError: the name is unusable; either file exists or cannot be written;
        others may write to the folder. No file is left behind then, and none changed.
    """
    _check_name(name)
    identity = Identity(name, SigningKey(Secret(entropy(SECRET_SIZE))))
    lines = f"name {name}\npublic {identity.key.public.hex()}\n"
    secret = f"secret {identity.key.secret.expose().hex()}\n"
    write_new(path, f"secagg identity 1\n{lines}{secret}".encode(), private=True)
    try:
        write_new(f"{Path(path)}.pub", f"secagg public identity 1\n{lines}".encode())
    except BaseException:
        Path(path).unlink()  # ours, and nobody has seen its public half
        raise
    return identity


def load_identity(path: str | Path) -> Identity:
    """The identity that ``create_identity`` wrote.

    Args:
      path: of the private half.

    Raises:
      IdentityError: the file is missing, changed or no private key; a link, or no
        regular file; another's, or others may read it; or others may replace it, for
        they may write to its folder (a sticky one, such as /tmp, keeps them from that).
    """
    found = _PRIVATE_FILE.fullmatch(read_file(path, LARGEST_KEY_FILE, private=True))
    if found is None:
        raise IdentityError(
            f"{path} is no private key, or was changed: `secagg keys new` makes one, as PATH "
            "without .pub"
        )
    name, public, secret = (each.decode() for each in found.groups())
    identity = Identity(name, SigningKey(Secret(bytes.fromhex(secret))))
    if identity.key.public.hex() != public:
        raise IdentityError(
            f"{path} was damaged: its two halves differ; restore it or make another"
        )
    return identity


def load_public(path: str | Path) -> PublicIdentity:
    """The public half of an identity. Whose it is, only a comparison of fingerprints tells.

    Args:
      path: of the public half, PATH.pub.

    Raises:
      IdentityError: the file is missing, changed, or no public key.
    """
    found = _PUBLIC_FILE.fullmatch(read_file(path, LARGEST_KEY_FILE))
    if found is None:
        raise IdentityError(f"{path} is no public key, or was changed: ask for PATH.pub once more")
    shown = PublicIdentity(found[1].decode(), bytes.fromhex(found[2].decode()))
    _check_public(shown)
    return shown


def sign_roster(
    operator: Identity, members: Mapping[ClientId, tuple[str, bytes]], *, serial: int = 1
) -> bytes:
    """Sign the members, (name, public key) by client number: the bytes of a roster file.

    Args:
      operator: who vouches for the members; not the server.
      members: (name, public key) by client number.
      serial: above that of every roster that the operator signed before.

    Raises:
      IdentityError: fewer than two members; a name or key twice, or unusable, or the
        operator's own; a number or serial out of range; or a roster too large to be read.
    """
    body = _encode(operator.shown, members, serial)
    signature = operator.key.sign(FORMAT, body).hex()
    signed = b'{"roster":%b,"signature":"%b"}\n' % (body, signature.encode())
    if len(signed) > LARGEST_ROSTER:
        raise IdentityError(f"a roster has at most {LARGEST_ROSTER} bytes, not {len(signed)}")
    return signed


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """The identities by client number, signed by an operator. Get one from ``read``.

    Attributes:
      operator: who signed it.
      members: by client number.
      serial: the operator counts it up with every roster.
      digest: SHA-256 of what was signed. Where it enters the public inputs of a round,
        clients that hold different rosters do not sum.
    """

    serial: int
    operator: PublicIdentity
    members: Mapping[ClientId, PublicIdentity]
    digest: bytes

    @classmethod
    def read(cls, source: str | Path | bytes, *, operator: bytes, at_least: int = 0) -> Self:
        """The roster in a file or in bytes, once its signature has been verified.

        Args:
          operator: public key of who signs, 32 bytes, from somebody who is not the server.
          at_least: the highest serial seen so far; whoever remembers none is shown old
            rosters, with members and keys that the operator has withdrawn since.

        Raises:
          IdentityError: another operator's, an older one, or no roster in its one encoding.
        """
        body, signature = _split(source)
        try:
            verify(operator, FORMAT, body, signature)
        except RemoteProtocolError:
            raise IdentityError(
                f"the roster is not signed by the operator with fingerprint {fingerprint(operator)}"
            ) from None
        roster = cls._parse(body)
        if roster.operator.public != operator:
            raise IdentityError("the roster names another operator than signed it")
        if roster.serial < at_least:
            raise IdentityError(
                f"the roster has serial {roster.serial}, and {at_least} was seen before: "
                "ask the operator for the newest"
            )
        return roster

    @classmethod
    def claimed_operator(cls, source: str | Path | bytes) -> PublicIdentity:
        """The operator that the roster itself names. Nothing of it was verified."""
        return cls._parse(_split(source)[0]).operator

    @classmethod
    def _parse(cls, body: bytes) -> Self:
        try:
            held = json.loads(body)
            serial, operator = held["serial"], _shown(held["operator"])
            members = {each["number"]: _shown(each) for each in held["members"]}
        except (ValueError, TypeError, KeyError, RecursionError):
            raise IdentityError(
                "the roster's fields are not those of version 1; ask anew"
            ) from None
        if _encode(operator, members, serial) != body:
            raise IdentityError("the roster has unknown fields or another encoding; ask anew")
        digest = hashlib.sha256(opaque(FORMAT) + body).digest()
        return cls(serial=serial, operator=operator, members=members, digest=digest)

    @property
    def identities(self) -> dict[ClientId, bytes]:
        """Everybody's public key, for ``protocols.bonawitz.join``."""
        return {number: member.public for number, member in self.members.items()}

    def number_of(self, public: bytes) -> ClientId:
        """The client number of a public key; ``IdentityError`` if nobody has it."""
        for number, member in self.members.items():
            if member.public == public:
                return number
        raise IdentityError(
            f"nobody in roster {self.serial} has the key with fingerprint {fingerprint(public)}: "
            "send its PATH.pub to the operator"
        )

    def name_of(self, number: ClientId) -> str:
        """The name of that client; ``IdentityError`` if there is none."""
        if number not in self.members:
            raise IdentityError(f"roster {self.serial} has no client {number}; is it the newest?")
        return self.members[number].name


def _split(source: str | Path | bytes) -> tuple[bytes, bytes]:
    """BODY and its signature, neither of them looked at."""
    data = source if isinstance(source, bytes) else read_file(source, LARGEST_ROSTER)
    found = _ROSTER_FILE.fullmatch(data)
    if found is None:
        raise IdentityError("this is no roster, or was changed: ask the operator once more")
    return found[1], bytes.fromhex(found[2].decode())


def _shown(held: Any) -> PublicIdentity:
    return PublicIdentity(held["name"], bytes.fromhex(held["public"]))


def _encode(
    operator: PublicIdentity, members: Mapping[ClientId, tuple[str, bytes]], serial: int
) -> bytes:
    """BODY, of values that were checked."""
    shown = {number: PublicIdentity(*member) for number, member in members.items()}
    everybody = [operator, *shown.values()]
    for each in everybody:
        _check_name(each.name)
        _check_public(each)
    for number, least in ((serial, 1), *((number, 0) for number in shown)):
        if type(number) is not int or not least <= number < 2**32:
            raise IdentityError(f"number {number!r:.40} is outside [{least}, 2**32)")
    if len(shown) < 2:
        raise IdentityError(f"a roster of {len(shown)}: at least 2, one alone cannot hide")
    for values in ([each.name for each in everybody], [each.public.hex() for each in everybody]):
        ((value, count),) = Counter(values).most_common(1)
        if count > 1:
            raise IdentityError(f"{value} stands twice among the operator and the members")
    body = {
        "format": FORMAT.decode(),
        "members": [_fields(shown[number]) | {"number": number} for number in sorted(shown)],
        "operator": _fields(operator),
        "serial": serial,
    }
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()


def _fields(shown: PublicIdentity) -> dict[str, str | int]:
    return {"name": shown.name, "public": shown.public.hex()}


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not re.fullmatch(_NAME, name):
        raise IdentityError(f"the name {name!r:.80} is not 1 to 64 of A-Z a-z 0-9 . _ -")


def _check_public(shown: PublicIdentity) -> None:
    try:
        refuse_weak(shown.public)
    except RemoteProtocolError as error:
        raise IdentityError(f"{shown.name}: {error}") from None
