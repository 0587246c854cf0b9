"""Sessions on coefficients, played by two implementations that share a page and nothing else."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import second_ckks as second
from ckks_play import Ours, Play, replay, sha, terms_of, words_of
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from script import Counting

from protocols.errors import InputError

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs" / "protocols" / "ckks.md").read_text()
BLOCKS = json.loads((HERE / "ckks_blocks.json").read_text())
SEED = bytes.fromhex(BLOCKS["seed"])
FILES = sorted(file for file in HERE.glob("ckks_*.json") if file.stem != "ckks_blocks")
VECTORS = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def load(file: Path) -> dict[str, Any]:
    script: dict[str, Any] = json.loads(file.read_text())
    return script


@VECTORS
def test_the_page_is_enough_for_every_message_sum_and_refusal(file: Path) -> None:
    script = load(file)
    sent = sum("like" not in entry for entry in script["messages"])
    assert replay(script) == len(script["acts"]) + sent


@VECTORS
def test_what_follows_from_the_parameters_is_as_the_page_says(file: Path) -> None:
    script = load(file)
    terms = terms_of(script["params"], script)
    assert script["agreement"] == terms.agreement(0).hex()
    assert script["key_context"] == terms.key_context.hex()
    assert script["deviation"] == (terms.deviation if terms.flooding else 0.0).hex()
    assert script["bound"] == terms.bound.hex()
    assert script["exact_bits"] == terms.exact_bits


def test_another_byte_in_a_file_is_noticed() -> None:
    for kind, field in (("messages", "sha256"), ("messages", "first")):
        script = load(HERE / "ckks_shared_reals.json")
        entry = next(entry for entry in script[kind] if field in entry)
        entry[field] = entry[field][:-1] + ("0" if entry[field][-1] != "0" else "1")
        with pytest.raises(AssertionError):
            replay(script)
    script = load(HERE / "ckks_refuses_shared_uploads.json")
    next(step for step in script["acts"] if "error" in step)["error"] = "sum"
    with pytest.raises(AssertionError):
        replay(script)


@pytest.mark.parametrize("name", ["shared_integers", "shared_unflooded", "threshold_gone"])
def test_sums_of_integers_are_exact(name: str) -> None:
    script = load(HERE / f"ckks_{name}.json")
    bits, ours = script["bits"], Ours(script["params"], script)
    count = script["params"]["entries"] // ours.digits(bits)
    plain = np.zeros(count, np.uint64)
    for client in script["clients"]:
        plain += words_of(client, count) >> np.uint64(64 - bits)
    plain &= np.uint64(2**bits - 1)
    (found,) = (step["sum"] for step in script["acts"] if "sum" in step)
    assert found["numbers"] == sha(plain.astype("<u8").tobytes())
    assert found["first"] == plain[:4].astype("<u8").tobytes().hex()


def test_a_file_called_refuses_expects_errors_and_no_other_does() -> None:
    for file in FILES:
        errors = [step for step in load(file)["acts"] if "error" in step]
        assert bool(errors) is file.stem.startswith("ckks_refuses_")
        assert all("shows" in step for step in errors)


def test_the_page_names_every_field_and_step_of_a_session() -> None:
    for file in FILES:
        script = load(file)
        steps = (*script["acts"], *script["messages"])
        names = {*script, *(name for step in steps for name in step)} - {"about"}
        names |= {step["does"] for step in script["acts"]}
        assert {name for name in names if f"`{name}`" not in PAGE} == set()


def test_the_sizes_of_the_page_are_those_of_the_messages() -> None:
    sizes = "a frame 78, an Opening 78 and 64 for each other holder, a Request 78 and 36 a client"
    assert sizes in PAGE
    assert "a Partial 50 and in the first 36 for each holder gone" in PAGE
    script = load(HERE / "ckks_refuses_requests.json")  # four holders, three alive; three clients
    found = {entry["name"]: entry.get("size") for entry in script["messages"]}
    whole, cut = 8 * second.N, 4 * (second.ZEROS + script["params"]["entries"])
    assert found["frame 0 of 0 in 0"] == 78 + whole + cut
    assert found["opening 2"] == 78 + 3 * 64 + whole
    assert found["request in 0"] == 78 + 3 * 36 + 3 * 4 + whole
    assert found["part 0 of 2 in 0"] == 50 + 36 + cut


def test_the_files_are_small_and_say_that_their_secrets_are_for_tests() -> None:
    for file in (*FILES, HERE / "ckks_blocks.json"):
        assert file.stat().st_size < 60_000
        assert "use none of them for anything else" in load(file)["about"]


# Blocks.


@pytest.mark.parametrize("case", BLOCKS["gaussians"], ids=lambda case: str(case["count"]))
def test_noise_is_that_of_the_file(case: dict[str, Any]) -> None:
    deviation = float.fromhex(case["deviation"])
    read = second.Reader(SEED, case["label"].encode())
    found = second.gaussians(case["count"], deviation, read)
    assert found[:8] == case["first"]
    assert sha(np.array(found, "<i8").tobytes()) == case["sha256"]


@pytest.mark.parametrize("case", BLOCKS["products"], ids=lambda case: str(case["limbs"]))
def test_a_product_and_an_error_are_those_of_the_file(case: dict[str, Any]) -> None:
    ring = terms("ckks_shared", limbs=case["limbs"])
    uniform, small, more = (label.encode() for label in case["labels"])
    factor = second.ternary(SEED, small, second.N)
    product = second.times(ring.uniform(SEED, uniform), factor, ring.q)
    error = second.errors(second.Reader(SEED, more), second.N)
    data = ring.whole(second.plus(product, error, ring.q))
    assert data[:32].hex() == case["first"]
    assert sha(data) == case["sha256"]


def schoolbook(poly: Sequence[int], small: Sequence[int], q: int) -> list[int]:
    found = [0] * second.N
    for place, factor in enumerate(small):
        for at, value in enumerate(poly):
            if factor and value:
                wraps, to = divmod(place + at, second.N)
                found[to] += -factor * value if wraps else factor * value
    return [value % q for value in found]


def test_the_second_implementations_product_is_the_definition() -> None:
    q = 2**72
    poly, small = [0] * second.N, [0] * second.N
    for at, value in ((0, q - 1), (1, 2**71), (2047, 12345), (4095, 2**36 - 1)):
        poly[at] = value
    for at, value in ((0, 1), (1, -1), (4094, -1), (4095, 1)):
        small[at] = value
    assert second.times(poly, small, q) == schoolbook(poly, small, q)


@pytest.mark.parametrize("case", BLOCKS["cuts"], ids=lambda case: str(case["kept"]))
def test_what_is_cut_has_the_bytes_of_the_file(case: dict[str, Any]) -> None:
    kept, words = case["kept"], [int(word, 16) for word in case["words"]]
    ring = terms("ckks_shared", kept=kept)
    cut = ring.cut(words)
    assert second.planes(cut, kept).hex() == case["bytes"]
    assert second.from_planes(bytes.fromhex(case["bytes"]), len(words), kept) == cut


@pytest.mark.parametrize("case", BLOCKS["integers"], ids=lambda case: str(case["bits"]))
def test_integers_have_the_words_of_the_file_and_come_back(case: dict[str, Any]) -> None:
    ring, bits = terms(case["of"]), case["bits"]
    values = [int(value, 16) for value in case["values"]]
    words = ring.encode_integers(values, bits)
    assert [f"{word:016x}" for word in words] == case["words"]
    total = [ring.clients * word % 2**64 for word in words]
    assert ring.decode_integers(total, bits) == [ring.clients * v % 2**bits for v in values]


def test_reals_have_the_words_of_the_file() -> None:
    case = BLOCKS["reals"]
    values = [float.fromhex(value) for value in case["values"]]
    words = terms(case["of"]).encode_reals(values)
    assert [f"{word:016x}" for word in words] == case["words"]


@pytest.mark.parametrize("case", BLOCKS["agreements"], ids=lambda case: case["shows"])
def test_an_agreement_is_one_or_is_refused_as_the_page_says(case: dict[str, Any]) -> None:
    data, error = bytes.fromhex(case["bytes"]), None
    try:
        found = second.Terms.read(data)
        assert found.agreement(int.from_bytes(data[16:20], "big")) == data
    except second.Refused as refused:
        error = refused.layer
    assert error == case["error"]


def terms(name: str, **changed: Any) -> second.Terms:
    script = load(HERE / f"{name}.json")
    return terms_of(script["params"] | changed, script)


# Both at once.

PARAMS = {
    "limbs": st.sampled_from([2, 3]),
    "messages": st.integers(1, 3),
    "kept": st.integers(2, 8),
    "entries": st.sampled_from([1, 2, 700, 4087, 4088, 4089, 2 * 4088 + 1]),
    "flooding": st.sampled_from([0, 30, 37]),
    "scale_sixteenths": st.integers(144, 560),
    "clip": st.floats(2.0**-20, 2.0**20),
}


@settings(max_examples=10, deadline=None)
@given(
    params=st.fixed_dictionaries(PARAMS),
    numbers=st.sampled_from(["words", "reals"]),
    clients=st.sets(st.integers(0, 2**32 - 1), min_size=2, max_size=3),
    holders=st.sets(st.integers(0, 2**32 - 1), max_size=3),
)
def test_both_implementations_send_and_open_the_same(
    params: dict[str, Any], numbers: str, clients: set[int], holders: set[int]
) -> None:
    try:
        play = Play(
            "anything",
            clients=sorted(clients),
            holders=sorted(holders) if len(holders) > 1 else [],
            numbers=numbers,
            **params,
        )
    except InputError:
        reject()
    if play.file["holders"]:
        play.key()
        play.uploads()
        play.opened(*play.file["holders"][-play.file["params"]["threshold"] :])
    else:
        play.uploads()
        play.shown(*play.file["clients"])
    replay(json.loads(play.to_json()))


def test_the_counting_entropy_is_that_of_the_page() -> None:
    blocks = (f"secagg vector holder 3 {block}" for block in range(2))
    assert Counting("holder 3")(64).hex() == "".join(sha(text.encode()) for text in blocks)
