"""Every option of every command, given what it cannot be: one line, exit 2, nothing on stdout."""

from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from dp.accounting.events import GaussianEvent, NoSampling
from dp.ledger.ledger import Budget, Ledger
from secagg.cli.main import cli

Run = Callable[..., tuple[int, str, str]]

# With these a command has what it must be given. Each of them would start: a value that is taken
# where it should be refused makes a test that does not end.
WHOLE = {
    "train": ("--out", "OUT"),
    "plan": ("--clients", "100", "--epsilon", "2", "--delta", "1e-5", "--examples", "60000"),
    "epsilon": ("--noise-multiplier", "1", "--steps", "1", "--delta", "1e-5"),
    "audit": ("LEDGER",),
    "ledger seal": ("LEDGER", "--signing-key", "none"),
    "doctor": (),
    "ledger head": ("LEDGER",),
    "ledger verify": ("LEDGER",),
    "bench costs": (),
    "bench quick": (),
    "bench compare": ("none", "none"),
    "bench utility": ("--quick",),
    "bench paper": (),
    "bench attack": ("--quick", "--rounds", "2", "--learning-rate", "1", "--clip", "1"),
    "interop peer": (),
    "interop fuzz": ("--peer", "none"),
    "invite": ("a", "--config", "none"),
    "join": ("http://127.0.0.1:1", "--home", "none", "--program", "none:none"),
    "serve": ("--config", "none"),
    "keys new": ("OUT", "--name", "a"),
    "keys show": ("none",),
    "keys roster": ("none", "--operator", "none", "--out", "OUT"),
    "node new": ("OUT",),
    "node show": ("none",),
}
NO_NUMBERS = ("nan", "inf", "-inf", "1e300", "-1e300", "-1", "", " ", "one", "1,5")
NO_PATHS = ("", "/dev/null/none", "zero\0byte")


def commands(command: click.Command, *names: str) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            if (each := command.get_command(context, name)) is not None:
                yield from commands(each, *names, name)
    else:
        yield " ".join(names), command


def options(*kinds: str) -> Iterator[tuple[str, str]]:
    for name, command in commands(cli):
        for option in command.params:
            flag = getattr(option, "is_flag", False)
            if isinstance(option, click.Option) and not flag and option.type.name in kinds:
                yield name, option.opts[0]


# What is a number for an option, though it looks like none of sense.
TAKEN = {("epsilon", "--noise-multiplier"): ("1e300",)}


def given(name: str, option: str, value: str, places: dict[str, str]) -> list[str]:
    """The command with that option alone replaced."""
    words = [places.get(word, word) for word in WHOLE[name]]
    if option in words:
        at = words.index(option)
        del words[at : at + 2]
    return [*name.split(), *words, f"{option}={value}"]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("options")
    with Ledger.create(folder / "ledger", Budget(epsilon=2, delta=1e-5)) as book:
        book.reserve(1, {"a": GaussianEvent(noise_multiplier=10, sampling=NoSampling())})
    return {
        "LEDGER": str(folder / "ledger"),
        "OUT": str(folder / "out"),
        "none": str(folder / "none"),
    }


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(secagg: Run, words: list[str]) -> str:
    code, out, err = secagg(*words)
    assert (code, out) == (2, ""), words
    assert err.count("\n") == 1, words
    assert err.startswith("secagg: "), words
    assert "Traceback" not in err
    return err


def test_the_table_names_every_command() -> None:
    assert WHOLE.keys() == {name for name, _ in commands(cli)}


@pytest.mark.parametrize(("name", "option"), options("integer", "integer range", "float"))
def test_a_number_that_is_none_or_out_of_range_is_refused(
    secagg: Run, places: dict[str, str], name: str, option: str
) -> None:
    for value in NO_NUMBERS:
        if value in TAKEN.get((name, option), ()):
            continue
        refused(secagg, given(name, option, value, places))
    assert not Path(places["OUT"]).exists()


@pytest.mark.parametrize(("name", "option"), options("path", "file"))
def test_a_path_that_cannot_be_is_refused(
    secagg: Run, places: dict[str, str], name: str, option: str
) -> None:
    for value in NO_PATHS:
        refused(secagg, given(name, option, value, places))


@pytest.mark.parametrize(("name", "option"), options("text", "choice"))
def test_an_empty_text_is_refused(
    secagg: Run, places: dict[str, str], name: str, option: str
) -> None:
    refused(secagg, given(name, option, "", places))


@pytest.mark.parametrize("name", WHOLE)
def test_an_option_that_does_not_exist_is_refused(
    secagg: Run, places: dict[str, str], name: str
) -> None:
    refused(secagg, given(name, "--no-such-option", "1", places))
