"""How many of our own checks the vectors need: ``python tests/vectors/mutate.py [file ...]``.

Each check of ``protocols.bonawitz``, of ``protocols.ckks`` on coefficients, and of what both read
with is taken out, alone, and the vectors are played against what is left. A check that can go
unnoticed is printed: the vectors would not tell that an implementation lacks it.
``NO_PEER_CAN_TELL`` names those of which no vector can tell, each with its reason; they are taken
out all the same, and one that is noticed is an error. Not looked at are errors of our own driver,
which no message can cause, and vectors of long inputs, which check no rule that others do not.
"""

import ast
import importlib
import importlib.abc
import importlib.util
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

HERE = Path(__file__).parent
HOME = HERE.parents[1]
sys.path[:0] = [str(HERE), str(HOME)]
FILES = (
    "protocols/wire.py",
    "protocols/collect.py",
    "protocols/primitives/agree.py",
    "protocols/primitives/sign.py",
    "protocols/bonawitz/params.py",
    "protocols/bonawitz/messages.py",
    "protocols/bonawitz/records.py",
    "protocols/bonawitz/client.py",
    "protocols/bonawitz/server.py",
    "protocols/ckks/params.py",
    "protocols/ckks/messages.py",
    "protocols/ckks/keys.py",
    "protocols/ckks/holder.py",
    "protocols/ckks/client.py",
    "protocols/ckks/server.py",
    "protocols/ckks/by_coefficients.py",
    "protocols/ckks/coefficients.py",
)
SESSIONS = "protocols/ckks/"  # whose vectors are those called ckks_*
REMOTE = {"DecodeError", "RemoteProtocolError", "TooFewSurvivors"}
LIMITS = REMOTE | {"InputError"}  # in params.py: of an Agreement
CALLS = {
    "check_agreed",
    "check_integer",
    "check_keys",
    "check_opening",
    "check_second",
    "check_share",
    "check_size",
    "check_summands",
    "expect",
    "expect_version",
    "finish",
    "refuse_low_order",
    "refuse_shared",
    "verify",
    "_admit",
    "_burn",
    "_check_majority",
    "_check_marks",
    "_check_roster",
    "_close",
    "_enough",
    "_drop_conflicts",
}
OWN = {  # functions in which an error of our own is a rule of the page: R8, R9, R46, R57, R58
    "join": {"InputError"},
    "on_boxes": {"LocalProtocolError"},
    "on_survivors": {"LocalProtocolError"},
    "rebind": {"LocalProtocolError"},
    "refuse_shared": {"InputError"},
    "verify": {"InvalidSignature"},
}
A_RECORD = "a record never travels, and its checksum is looked at before"
THE_READER = "a reader takes as many bytes as it is, so that no message can hold another"
THE_DRIVER = "the client's own driver says it, no message"
NO_SUM = "the sum does not open, right behind it"
CLOSED = "the next check wants as many; it also closes the stage, which keeps our own driver out"
NO_PEER_CAN_TELL = {
    # A host looks a sender up with it; then the message is read, and its version refused.
    (
        "protocols/wire.py",
        "reader.expect_version()",
    ): "the message is refused alike when it is read",
    ("protocols/wire.py", 'check_size("session", self.session, SESSION_SIZE)'): THE_READER,
    ("protocols/wire.py", 'check_integer("round", self.round, 0)'): THE_READER,
    # Sets that travel are Subsets; the numbers of this reader are in records alone.
    (
        "protocols/wire.py",
        "any(client >= following for client, following in pairwise(clients))",
    ): A_RECORD,
    ("protocols/bonawitz/records.py", "len(identity) not in (0, VERIFY_KEY_SIZE)"): A_RECORD,
    ("protocols/bonawitz/records.py", "len(seal_key) not in (0, KEY_SIZE)"): A_RECORD,
    # Of cards of identities, which nodes exchange: no message of this protocol comes here.
    (
        "protocols/primitives/sign.py",
        "len(public) != VERIFY_KEY_SIZE or y >= _P or low or not on_curve",
    ): "no part of a round; R8 has is_small_order",
    ("protocols/bonawitz/client.py", 'check_integer("client", me, 0)'): THE_DRIVER,
    (
        "protocols/bonawitz/client.py",
        "active is not (identity is not None) or active is not bool(identities)",
    ): THE_DRIVER,
    (
        "protocols/bonawitz/client.py",
        "identity and identities and identities.get(me) != identity.public",
    ): THE_DRIVER,
    # needed is never below minimum_survivors, and both are R19.
    (
        "protocols/bonawitz/client.py",
        "roster.size < params.minimum_survivors",
    ): "decides nothing: needed, further down, is at least as many",
    # A state of stage 4 is of the one set that stage 3 has burnt; another never gets so far.
    (
        "protocols/bonawitz/client.py",
        "self._burn(body)",
    ): "stage 3 was burnt for the set, and signs no other",
    (
        "protocols/bonawitz/server.py",
        "self._close(len(self._keys), params.minimum_survivors)",
    ): CLOSED,
    # With fewer reveals than the threshold each secret has fewer shares; both are R49.
    (
        "protocols/bonawitz/server.py",
        "self._close(len(self._shares), self._round.plan.threshold)",
    ): CLOSED,
    # Without a correction the masks are those of before, and the check word counts no better.
    (
        "protocols/bonawitz/server.py",
        "masks and not disputes",
    ): "saves work: the check word fails again, right behind it",
    # Another mask key has other masks, in the check word too; both are R50.
    (
        "protocols/bonawitz/server.py",
        "key.public != keys[client].mask",
    ): "the check word fails, but for one key in 2^64",
    # What is left over is not written again, and bytes that are not written alike are refused.
    (
        "protocols/bonawitz/params.py",
        "reader.finish()",
    ): "rates are also compared with their one encoding",
    # minimum_survivors is from 2 to clients.
    (
        "protocols/bonawitz/params.py",
        'check_integer("clients", self.clients, 2)',
    ): "below two clients no minimum of survivors is left",
    # With threshold <= clients <= corrupt, twice the threshold is no more than clients + corrupt.
    (
        "protocols/bonawitz/params.py",
        'check_integer("max_corrupt", self.max_corrupt, 0, self.clients - 1)',
    ): "no threshold is a majority then, and without one it may not be given",
    (
        "protocols/bonawitz/params.py",
        'check_size("public_digest", self.public_digest, DIGEST_SIZE)',
    ): THE_READER,
    (
        "protocols/ckks/params.py",
        "self.ring.bits > MAX_BITS[self.ring.degree]",
    ): "of SEAL's rings: on coefficients there are two, and both are narrow enough",
    (
        "protocols/ckks/params.py",
        "self.clients < 2",
    ): "below two clients no minimum of survivors is left",
    ("protocols/ckks/params.py", "check_integer(name, getattr(self, name), 0)"): THE_READER,
    ("protocols/ckks/params.py", "not isinstance(self.ring, Ring)"): THE_DRIVER,
    ("protocols/ckks/params.py", "not isinstance(self.ring, Coefficients)"): THE_DRIVER,
    ("protocols/ckks/params.py", "room <= 0"): THE_DRIVER,
    (
        "protocols/ckks/params.py",
        'check_size("public_digest", self.public_digest, DIGEST_SIZE)',
    ): THE_READER,
    ("protocols/ckks/keys.py", 'check_size("secret", secret, SEED_SIZE)'): THE_DRIVER,
    ("protocols/ckks/keys.py", 'check_size("blind", blind, BLIND_SIZE)'): THE_READER,
    ("protocols/ckks/keys.py", "arithmetic(agreement).check_share(opened.share)"): THE_READER,
    ("protocols/ckks/holder.py", 'check_integer("holder", me, 0)'): THE_DRIVER,
    ("protocols/ckks/holder.py", "me not in roster.entries"): A_RECORD,
    ("protocols/ckks/client.py", 'check_integer("client", me, 0)'): THE_DRIVER,
    (
        "protocols/ckks/server.py",
        'self._close(len(self._shares), len(self._request.alive), "holders")',
    ): NO_SUM,
    ("protocols/ckks/server.py", "not self._key.is_of(holder, seed)"): NO_SUM,
    (
        "protocols/ckks/by_coefficients.py",
        "len(share) != self.params.share_size",
    ): THE_READER,
    ("protocols/ckks/coefficients.py", "len(data) != ring.whole"): THE_READER,
}
LARGEST = 40_000  # bytes of a vector that is played here


class Mutant(NamedTuple):
    file: str
    line: int
    source: str
    without: str  # the whole file

    @property
    def name(self) -> tuple[str, str]:
        return self.file, self.source


def mutants() -> Iterator[Mutant]:
    for file in FILES:
        text = (HOME / file).read_text()
        kinds = LIMITS if file.endswith("params.py") else REMOTE
        tree = ast.parse(text)
        own = {
            node: OWN[function.name]
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef) and function.name in OWN
            for node in ast.walk(function)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and raises(node, kinds | own.get(node, set())):
                yield edited(file, text, node.test, "({}) and False")
            if isinstance(node, ast.Expr) and called(node.value) in CALLS:
                yield edited(file, text, node, "None")


def raises(node: ast.If, kinds: set[str]) -> bool:
    last = node.body[-1]
    if not isinstance(last, ast.Raise):
        return False
    name = called(last.exc) or getattr(last.exc, "id", "")
    return name in kinds or name == "_wrong"


def called(node: ast.AST | None) -> str:
    if not isinstance(node, ast.Call):
        return ""
    function = node.func
    return getattr(function, "attr", getattr(function, "id", ""))


def edited(file: str, text: str, node: ast.expr | ast.stmt, new: str) -> Mutant:
    lines = text.encode().splitlines(keepends=True)
    begin = sum(map(len, lines[: node.lineno - 1])) + node.col_offset
    end = sum(map(len, lines[: (node.end_lineno or 0) - 1])) + (node.end_col_offset or 0)
    data = text.encode()
    old = data[begin:end].decode()
    without = data[:begin] + new.format(old).encode() + data[end:]
    return Mutant(file, node.lineno, " ".join(old.split()), without.decode())


class Changed(importlib.abc.MetaPathFinder, importlib.abc.SourceLoader):
    """Imports one module from other text."""

    def __init__(self, file: str, text: str) -> None:
        self._name = file.removesuffix(".py").replace("/", ".")
        self._path, self._text = str(HOME / file), text

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> Any:
        if fullname != self._name:
            return None
        return importlib.util.spec_from_loader(fullname, self, origin=self._path)

    def get_filename(self, fullname: str) -> str:
        return self._path

    def get_data(self, path: str) -> bytes:
        return self._text.encode()


@contextmanager
def without(mutant: Mutant | None) -> Iterator[None]:
    """Imports of ``protocols`` and of the vectors' players begin anew, with one file changed."""
    ours = {
        "test_vectors",
        "test_blocks",
        "test_picks",
        "test_second_implementation",
        "script",
        "picks",
        "blocks",
        "ckks_blocks",
        "ckks_play",
        "ckks_scripts",
    }
    for name in list(sys.modules):
        if name in ours or name.split(".")[0] == "protocols":
            del sys.modules[name]
    finder = Changed(mutant.file, mutant.without) if mutant else None
    if finder:
        sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        if finder:
            sys.meta_path.remove(finder)


Kept = tuple[dict[str, Any], dict[str, dict[int, bytes]]]


def honest_round() -> Kept:
    """Messages and records of the round of picks, as bytes."""
    with without(None):
        played = importlib.import_module("picks").round_of_200()
        records = {
            kind: {client: record.expose() for client, record in found.items()}
            for kind, found in played.records.items()
        }
        return played.messages, records


def notices_of_sessions() -> str:
    """The first session, or agreement, of which comes something else than its file says."""
    try:
        scripts = importlib.import_module("ckks_scripts").SCRIPTS
        read = importlib.import_module("ckks_blocks").agreements()
    except Exception as error:  # noqa: BLE001  # whatever a missing check leads to
        return f"import: {type(error).__name__}"
    for case in json.loads((HERE / "ckks_blocks.json").read_text())["agreements"]:
        if case not in read:
            return str(case["shows"])
    for name in sorted(scripts, key=lambda name: ("refuses" not in name, name)):
        try:
            played = scripts[name]().to_json()
        except Exception:  # noqa: BLE001
            return name
        if played != (HERE / f"{name}.json").read_text():
            return name
    return ""


def notices(kept: Kept, file: str = "") -> str:
    """The first vector that goes otherwise than it says, where ``file`` was changed."""
    if file.startswith(SESSIONS):
        return notices_of_sessions()
    try:
        vectors = importlib.import_module("test_vectors")
    except Exception as error:  # noqa: BLE001  # whatever a missing check leads to
        return f"import: {type(error).__name__}"
    small = [file for file in vectors.FILES if file.stat().st_size < LARGEST]
    refusing = sorted(small, key=lambda file: (not file.stem.startswith("refuses"), file.name))
    tried: list[tuple[str, Any]] = [(file.stem, (vectors.play, file)) for file in refusing]
    blocks = importlib.import_module("test_blocks")
    for kind, test in (
        ("agreements", blocks.test_an_agreement_is_read_or_refused),
        ("refused subsets", blocks.test_what_is_no_set_is_refused),
        ("refused signatures", blocks.test_what_is_no_signature_is_refused),
    ):
        if kind != "agreements" or file.endswith("params.py"):  # some have plans, which take time
            tried.extend((case["shows"], (test, case)) for case in blocks.FILE[kind])
    picks = importlib.import_module("test_picks")
    played = picks.picks.Round.again(*kept)
    cases = picks.FILE["cases"]
    tried.extend((case["shows"], (picks.play, case, played)) for case in cases)
    for name, (test, *given) in tried:
        try:
            test(*given)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # noqa: BLE001  # pytest's failures are no exceptions
            return name
    return ""


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    named = sys.argv[1:] or FILES
    found = [mutant for mutant in mutants() if mutant.file in named]
    kept = honest_round()
    with without(None):
        if noticed := notices(kept) or notices_of_sessions():
            raise SystemExit(f"nothing was removed, and {noticed} fails")
    missed, told, unreachable = [], [], 0
    for mutant in found:
        with without(mutant):
            noticed = notices(kept, mutant.file)
        why = NO_PEER_CAN_TELL.get(mutant.name, "")
        by = noticed or why or "NOBODY"
        say(f"{mutant.file}:{mutant.line} {mutant.source[:70]} -> {by}")
        unreachable += bool(why)
        if why and noticed:
            told.append(mutant)
        elif not (why or noticed):
            missed.append(mutant)
    reachable = len(found) - unreachable
    caught = reachable - len(missed)
    share = f"({caught / reachable:.3f})" if reachable else ""
    say(f"\n{caught} of {reachable} removed checks are noticed {share}")
    say(f"and of {unreachable} more no peer can tell; {len(found)} in all")
    for mutant in missed:
        say(f"  not: {mutant.file}:{mutant.line} {mutant.source}")
    for mutant in told:
        say(f"  noticed, though listed: {mutant.file}:{mutant.line} {mutant.source}")
    if missed or told:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
