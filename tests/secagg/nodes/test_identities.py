"""Key files that only their owner can have touched, and rosters that an operator signed."""

import copy
import hashlib
import json
import os
import pickle
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from protocols.bonawitz import Agreement, Params, join
from protocols.errors import RemoteProtocolError
from protocols.primitives import sign
from protocols.primitives.sign import SigningKey, refuse_weak, verify
from protocols.secrets import Secret
from protocols.wire import opaque
from secagg import files
from secagg.errors import IdentityError
from secagg.nodes import identities
from secagg.nodes.identities import (
    FORMAT,
    LARGEST_KEY_FILE,
    LARGEST_ROSTER,
    Identity,
    Roster,
    create_identity,
    fingerprint,
    load_identity,
    load_public,
    sign_roster,
)

SECRET = bytes(range(32))
P, D = 2**255 - 19, -121665 * pow(121666, -1, 2**255 - 19)
L = 2**252 + 27742317777372353535851937790883648493  # RFC 8032 section 5.1
NEUTRAL = b"\x01" + bytes(31)  # the point (0, 1)
ANYBODYS = NEUTRAL + bytes(32)  # signature


def identity_of(name: str) -> Identity:
    return Identity(name, SigningKey(Secret(hashlib.sha256(name.encode()).digest())))


OPERATOR = identity_of("operator")
BOSS = OPERATOR.key.public
MEMBERS = {number: identity_of(f"hospital-{number}").shown for number in (0, 1, 7)}
ROSTER = sign_roster(OPERATOR, MEMBERS, serial=3)


def signed(body: bytes, key: SigningKey = OPERATOR.key) -> bytes:
    """What an operator that signs anything hands out."""
    return b'{"roster":%b,"signature":"%b"}\n' % (body, key.sign(FORMAT, body).hex().encode())


def body_of(roster: bytes) -> bytes:
    return roster[len(b'{"roster":') : roster.index(b',"signature"')]


@pytest.fixture
def key(tmp_path: Path) -> Path:
    create_identity(tmp_path / "a.key", "a", lambda size: SECRET[:size])
    return tmp_path / "a.key"


# Key files


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_an_identity_is_read_back_and_its_files_have_their_modes(
    umask: int, tmp_path: Path
) -> None:
    before = os.umask(umask)
    try:
        made = create_identity(tmp_path / "a.key", "hospital-1")
    finally:
        os.umask(before)
    read = load_identity(tmp_path / "a.key")
    assert read.shown == made.shown == load_public(tmp_path / "a.key.pub")
    assert read.name == "hospital-1"
    assert read.key.secret == made.key.secret
    assert stat.S_IMODE((tmp_path / "a.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "a.key.pub").stat().st_mode) == 0o644


def test_every_identity_is_another(tmp_path: Path) -> None:
    one, two = (create_identity(tmp_path / name, "same") for name in ("one", "two"))
    assert one.key.public != two.key.public


def test_both_files_and_their_folder_are_synced_before_a_key_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    synced = []
    monkeypatch.setattr(
        files.os, "fsync", lambda file: synced.append(os.readlink(f"/proc/self/fd/{file}"))
    )
    create_identity(tmp_path / "k", "a")
    assert synced == [str(tmp_path / name) for name in ("k", ".", "k.pub", ".")]


@pytest.mark.parametrize("taken", ["a.key", "a.key.pub"])
@pytest.mark.parametrize("kind", ["file", "folder", "link", "link to nothing"])
def test_nothing_is_overwritten_and_nothing_left_behind(
    taken: str, kind: str, tmp_path: Path
) -> None:
    place, target = tmp_path / taken, tmp_path / "target"
    if kind == "file":
        place.write_text("mine")
    elif kind == "folder":
        place.mkdir()
    else:
        place.symlink_to(target)
        if kind == "link":
            target.write_text("mine")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(IdentityError, match=f"{taken} exists, and is left as it is"):
        create_identity(tmp_path / "a.key", "a")
    assert sorted(tmp_path.iterdir()) == before
    assert all(path.read_text() == "mine" for path in before if path.is_file())


@pytest.mark.parametrize("failing", [1, 2, 3, 4])
def test_a_disk_that_is_full_leaves_no_half_of_a_key(
    failing: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = iter(range(1, 5))

    def fsync(_: int) -> None:
        if next(calls) == failing:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", fsync)
    with pytest.raises(IdentityError, match="No space left"):
        create_identity(tmp_path / "a.key", "a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bit", [0o040, 0o020, 0o010, 0o004, 0o002, 0o001])
def test_a_private_key_that_others_may_touch_is_refused(bit: int, key: Path) -> None:
    key.chmod(0o600 | bit)
    with pytest.raises(IdentityError, match=r"others may read or write .*: chmod 600 .*a\.key"):
        load_identity(key)
    key.chmod(0o400)
    assert load_identity(key).name == "a"


def test_a_private_key_behind_a_link_is_refused(key: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(key)
    with pytest.raises(IdentityError, match="symbolic link"):
        load_identity(tmp_path / "link")


@pytest.mark.parametrize("load", [load_identity, load_public])
def test_what_is_no_file_is_refused_and_not_waited_for(
    load: Callable[[Path], object], tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(IdentityError, match="no regular file"):
        load(tmp_path / "pipe")
    with pytest.raises(IdentityError, match="directory"):
        load(tmp_path)
    with pytest.raises(IdentityError, match="No such file"):
        load(tmp_path / "none")
    with pytest.raises(IdentityError, match="null byte"):
        load(tmp_path / "a\0b")


def test_a_private_key_of_somebody_else_is_refused(
    key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    another = os.geteuid() + 1
    monkeypatch.setattr(files.os, "geteuid", lambda: another)
    with pytest.raises(IdentityError, match="belongs to somebody else"):
        load_identity(key)


def test_a_folder_that_others_may_write_to_holds_no_private_key(key: Path) -> None:
    for mode in (0o777, 0o770, 0o707):
        key.parent.chmod(mode)
        with pytest.raises(IdentityError, match=r"others may write to .*: chmod go-w /"):
            load_identity(key)
        with pytest.raises(IdentityError, match="others may write to"):
            create_identity(key.with_name("b.key"), "b")
    key.parent.chmod(0o1777)  # as /tmp: others add files, and cannot replace ours
    assert load_identity(key).name == "a"
    key.parent.chmod(0o755)
    assert load_identity(key).name == "a"


@pytest.mark.parametrize("mode", [0o40755, 0o41777])
def test_the_owner_of_a_folder_replaces_what_is_in_it(mode: int) -> None:
    def owned(user: int) -> os.stat_result:
        return os.stat_result((mode, 0, 0, 0, user, 0, 0, 0, 0, 0))

    files._check_folder(Path("x"), owned(0))
    files._check_folder(Path("x"), owned(os.geteuid()))
    with pytest.raises(IdentityError, match="folder x belongs to somebody else"):
        files._check_folder(Path("x"), owned(os.geteuid() + 1))


SPOILT: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "cut": lambda data: data[:-1],
    "a line more": lambda data: data + b"\n",
    "windows": lambda data: data.replace(b"\n", b"\r\n"),
    "upper case": lambda data: data.replace(b"c", b"C"),
    "a blank more": lambda data: data.replace(b"public ", b"public  "),
    "another version": lambda data: data.replace(b"identity 1", b"identity 2"),
    "no name": lambda data: data.replace(b"name a", b"name "),
    "a name with a blank": lambda data: data.replace(b"name a", b"name a b"),
    "lines swapped": lambda data: b"\n".join(
        [*sorted(data.splitlines(), key=lambda line: line[:6] != b"public"), b""]
    ),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT.keys())
@pytest.mark.parametrize("end", ["", ".pub"])
def test_a_key_file_has_one_encoding(spoil: Callable[[bytes], bytes], end: str, key: Path) -> None:
    path, load = Path(f"{key}{end}"), load_public if end else load_identity
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(IdentityError, match="or was changed") as raised:
        load(path)
    assert SECRET.hex() not in str(raised.value)


def test_a_damaged_key_is_refused(key: Path) -> None:
    whole = key.read_bytes()
    for place in (whole.index(b"public ") + 7, whole.index(b"secret ") + 7):
        other = b"0" if whole[place : place + 1] != b"0" else b"1"
        key.write_bytes(whole[:place] + other + whole[place + 1 :])
        with pytest.raises(IdentityError, match="halves differ"):
            load_identity(key)


def test_the_two_halves_are_not_taken_for_each_other(key: Path) -> None:
    public = Path(f"{key}.pub")
    public.chmod(0o600)
    with pytest.raises(IdentityError, match="no private key"):
        load_identity(public)
    with pytest.raises(IdentityError, match="no public key"):
        load_public(key)


def test_a_file_that_is_too_large_is_not_read(key: Path) -> None:
    key.write_bytes(b"x" * (LARGEST_KEY_FILE + 1))
    with pytest.raises(IdentityError, match="more than 1024 bytes"):
        load_identity(key)
    os.truncate(key, LARGEST_ROSTER + 1)
    with pytest.raises(IdentityError, match="more than"):
        Roster.read(key, operator=BOSS)


def test_the_longest_name_fits(tmp_path: Path) -> None:
    create_identity(tmp_path / "k", "x" * 64)
    assert (tmp_path / "k").stat().st_size == 232 <= LARGEST_KEY_FILE
    assert load_identity(tmp_path / "k").name == "x" * 64


@pytest.mark.parametrize("name", ["", "x" * 65, "a b", "a\n", "ä", "a/b", "[red]", "a\0"])
def test_a_name_that_could_mislead_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="is not 1 to 64 of"):
        create_identity(tmp_path / "k", name)
    assert list(tmp_path.iterdir()) == []


def test_an_identity_never_shows_its_secret(key: Path) -> None:
    identity = load_identity(key)
    for text in (repr(identity), str(identity), repr(identity.key), repr(identity.shown)):
        assert SECRET.hex() not in text
        assert repr(SECRET)[2:-1] not in text
    with pytest.raises(TypeError, match="pickle"):
        copy.deepcopy(identity)
    with pytest.raises(TypeError):
        pickle.dumps(identity)
    assert SECRET.hex() not in Path(f"{key}.pub").read_text()


# Public keys


def _add(one: tuple[int, int], two: tuple[int, int]) -> tuple[int, int]:
    """RFC 8032 section 5.1.4, in affine coordinates."""
    (x1, y1), (x2, y2) = one, two
    t = D * x1 * x2 * y1 * y2
    return (
        (x1 * y2 + x2 * y1) * pow(1 + t, -1, P) % P,
        (y1 * y2 + x1 * x2) * pow(1 - t, -1, P) % P,
    )


def _times(count: int, point: tuple[int, int]) -> tuple[int, int]:
    total = (0, 1)
    for bit in f"{count:b}":
        total = _add(total, total)
        if bit == "1":
            total = _add(total, point)
    return total


def _of_order_8() -> tuple[int, int]:
    for y in range(2, 99):
        square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
        x = pow(square, (P + 3) // 8, P)
        if x * x % P != square:
            x = x * pow(2, (P - 1) // 4, P) % P
        if x * x % P == square:
            point = _times(L, (x, y))
            if _times(4, point) != (0, 1):
                return point
    raise AssertionError


def test_keys_of_low_order_are_refused() -> None:
    point = _of_order_8()
    small = [_times(count, point) for count in range(8)]
    assert len(set(small)) == 8
    for x, y in small:
        for bit in (x & 1, 1):  # x = 0 with a sign is no encoding at all
            with pytest.raises(RemoteProtocolError, match="low order"):
                refuse_weak((y | bit << 255).to_bytes(32, "little"))


def test_without_that_anybody_signs_for_a_key_of_low_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(RemoteProtocolError, match="no valid signature"):
        verify(NEUTRAL, b"label", b"", ANYBODYS)
    monkeypatch.setattr(sign, "is_small_order", lambda _: False)
    for number in range(99):
        verify(NEUTRAL, b"label", bytes([number]), ANYBODYS)


def test_what_is_no_point_is_refused() -> None:
    off_curve = [y for y in range(2, 40) if pow((y * y - 1) * (D * y * y + 1), P // 2, P) != 1]
    assert len(off_curve) > 10
    for y in (*off_curve, P + 3, P + 18, P, P + 1):
        with pytest.raises(RemoteProtocolError, match="no public key"):
            refuse_weak(y.to_bytes(32, "little"))
    for wrong in (b"", BOSS[:-1], BOSS + b"\0"):
        with pytest.raises(RemoteProtocolError, match="no public key"):
            refuse_weak(wrong)


def test_every_real_key_passes() -> None:
    for number in range(200):
        refuse_weak(identity_of(str(number)).key.public)


def test_a_public_file_of_low_order_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "k.pub"
    path.write_text(f"secagg public identity 1\nname a\npublic {'0' * 64}\n")
    with pytest.raises(IdentityError, match="low order"):
        load_public(path)


def test_a_fingerprint_is_sha_256_in_groups() -> None:
    shown = fingerprint(BOSS)
    assert shown.replace(" ", "") == hashlib.sha256(BOSS).hexdigest()
    assert [len(group) for group in shown.split()] == [8] * 8


# Rosters


def test_a_roster_says_who_has_which_number(tmp_path: Path) -> None:
    (tmp_path / "roster").write_bytes(ROSTER)
    for source in (ROSTER, tmp_path / "roster", str(tmp_path / "roster")):
        roster = Roster.read(source, operator=BOSS)
        assert roster.members == MEMBERS
        assert roster.identities == {number: shown.public for number, shown in MEMBERS.items()}
        assert (roster.serial, roster.operator) == (3, OPERATOR.shown)
        assert [roster.number_of(shown.public) for shown in MEMBERS.values()] == [0, 1, 7]
        assert roster.name_of(7) == "hospital-7"
        assert roster.digest == hashlib.sha256(opaque(FORMAT) + body_of(ROSTER)).digest()
    with pytest.raises(IdentityError, match=f"fingerprint {fingerprint(BOSS)}: send"):
        roster.number_of(BOSS)
    with pytest.raises(IdentityError, match="no client 2"):
        roster.name_of(2)


def test_a_roster_is_json_and_what_join_wants() -> None:
    assert json.loads(ROSTER)["roster"]["members"][2]["number"] == 7
    agreement = Agreement(
        params=Params(clients=3, threshold=3, words=1, active=True),
        session=bytes(16),
        round=0,
        public_digest=bytes(32),
    )
    roster, mine = Roster.read(ROSTER, operator=BOSS), identity_of("hospital-1")
    me = roster.number_of(mine.key.public)
    assert join(agreement, me, identity=mine.key, identities=roster.identities)


def test_the_order_in_which_members_are_given_changes_nothing() -> None:
    assert sign_roster(OPERATOR, dict(reversed(MEMBERS.items())), serial=3) == ROSTER


def test_another_operators_roster_is_refused() -> None:
    other = identity_of("somebody")
    with pytest.raises(IdentityError, match=f"with fingerprint {fingerprint(other.key.public)}"):
        Roster.read(ROSTER, operator=other.key.public)
    with pytest.raises(IdentityError, match="not signed by the operator"):
        Roster.read(signed(body_of(ROSTER), other.key), operator=BOSS)
    with pytest.raises(IdentityError, match="names another operator"):
        Roster.read(signed(body_of(ROSTER), other.key), operator=other.key.public)


def test_an_operator_of_low_order_has_signed_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    body = body_of(ROSTER).replace(BOSS.hex().encode(), NEUTRAL.hex().encode())
    forged = b'{"roster":%b,"signature":"%b"}\n' % (body, ANYBODYS.hex().encode())
    with pytest.raises(IdentityError, match="not signed by the operator"):
        Roster.read(forged, operator=NEUTRAL)
    monkeypatch.setattr(sign, "is_small_order", lambda _: False)
    with pytest.raises(IdentityError, match="low order"):
        Roster.read(forged, operator=NEUTRAL)
    monkeypatch.setattr(identities, "refuse_weak", lambda _: None)
    assert Roster.read(forged, operator=NEUTRAL).members == MEMBERS


def test_a_signature_for_another_purpose_is_none() -> None:
    body = body_of(ROSTER)
    signature = OPERATOR.key.sign(b"secagg proposal", body).hex().encode()
    with pytest.raises(IdentityError, match="not signed by the operator"):
        Roster.read(b'{"roster":%b,"signature":"%b"}\n' % (body, signature), operator=BOSS)


def test_nothing_is_parsed_before_the_signature_is_verified(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(identities.json, "loads", None)
    with pytest.raises(IdentityError, match="not signed by the operator"):
        Roster.read(ROSTER.replace(b"hospital-7", b"hospital-8"), operator=BOSS)


def test_an_older_roster_than_was_seen_is_refused() -> None:
    for seen in (0, 2, 3):
        assert Roster.read(ROSTER, operator=BOSS, at_least=seen).serial == 3
    with pytest.raises(IdentityError, match="serial 3, and 4 was seen before"):
        Roster.read(ROSTER, operator=BOSS, at_least=4)


def test_whom_a_roster_calls_its_operator_is_a_claim() -> None:
    forged = signed(body_of(ROSTER), identity_of("somebody").key)
    assert Roster.claimed_operator(forged) == OPERATOR.shown
    for wrong in (b"", b"{}", b'{"roster":{"format":"secagg roster 1"},"signature":"00"}\n'):
        with pytest.raises(IdentityError, match="no roster"):
            Roster.claimed_operator(wrong)


SHOWN = identity_of("a").shown
WRONG_MEMBERS: dict[str, tuple[dict[Any, tuple[Any, Any]], str]] = {
    "nobody": ({}, "a roster of 0"),
    "one": ({0: SHOWN}, "a roster of 1"),
    "a name twice": ({0: ("a", SHOWN.public), 1: ("a", BOSS)}, "^a stands twice"),
    "a key twice": ({0: SHOWN, 1: ("b", SHOWN.public)}, "stands twice"),
    "the operator": ({0: SHOWN, 1: ("b", BOSS)}, "stands twice"),
    "the operator's name": ({0: SHOWN, 1: ("operator", MEMBERS[0].public)}, "operator stands"),
    "low order": ({0: SHOWN, 1: ("b", bytes(32))}, "^b: .*low order"),
    "a short key": ({0: SHOWN, 1: ("b", bytes(31))}, "no public key"),
    "a bad name": ({0: SHOWN, 1: ("b c", MEMBERS[0].public)}, "'b c' is not"),
    "no name": ({0: SHOWN, 1: (None, MEMBERS[0].public)}, "None is not"),
    "below 0": ({-1: SHOWN, 1: MEMBERS[0]}, "-1 is outside"),
    "above": ({0: SHOWN, 2**32: MEMBERS[0]}, "4294967296 is outside"),
    "true": ({0: SHOWN, True: MEMBERS[0]}, "True is outside"),
    "a fraction": ({0: SHOWN, 1.0: MEMBERS[0]}, "1.0 is outside"),
}


@pytest.mark.parametrize(("members", "match"), WRONG_MEMBERS.values(), ids=WRONG_MEMBERS.keys())
def test_members_that_make_no_roster(members: Any, match: str) -> None:
    with pytest.raises(IdentityError, match=match):
        sign_roster(OPERATOR, members)


@pytest.mark.parametrize("serial", [0, -1, 2**32, True, 1.0])
def test_a_serial_out_of_range(serial: Any) -> None:
    with pytest.raises(IdentityError, match=r"outside \[1, 2\*\*32\)"):
        sign_roster(OPERATOR, MEMBERS, serial=serial)


def test_a_roster_that_nobody_would_read_is_not_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identities, "LARGEST_ROSTER", len(ROSTER))
    assert sign_roster(OPERATOR, MEMBERS, serial=3) == ROSTER
    with pytest.raises(IdentityError, match="a roster has at most"):
        sign_roster(OPERATOR, MEMBERS, serial=10)


def test_the_largest_roster_is_as_large_as_it_says() -> None:
    member = f'{{"name":"{"x" * 64}","number":{2**32 - 1},"public":"{"0" * 64}"}},'
    assert 17_150_000 < 100_000 * len(member) < 17_250_000 < LARGEST_ROSTER


def test_members_may_be_plain_pairs() -> None:
    plain = {number: tuple(shown) for number, shown in MEMBERS.items()}
    assert sign_roster(OPERATOR, plain, serial=3) == ROSTER  # type: ignore[arg-type]  # pairs
