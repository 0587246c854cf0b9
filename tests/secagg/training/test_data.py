import gzip
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg.errors import InputError
from secagg.training.data import (
    DATASETS,
    FASHION,
    FASHION_ROWS,
    FOLDER,
    federate,
    read_idx,
    simulated_dropouts,
)


def idx(entries: np.ndarray, *, kind: int = 8) -> bytes:
    head = bytes([0, 0, kind, entries.ndim]) + struct.pack(f">{entries.ndim}I", *entries.shape)
    return head + entries.tobytes()


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(gzip.compress(data, compresslevel=1))
    return path


@pytest.fixture
def fashion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Made-up files in the place of the real ones, fewer rows in them; returns their folder."""
    folder = tmp_path / FASHION
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for part, rows in (("train", 600), ("t10k", 100)):
        monkeypatch.setitem(FASHION_ROWS, part, rows)
        images = generator.integers(256, size=(rows, 28, 28), dtype=np.uint8)
        write(folder / f"{part}-images-idx3-ubyte.gz", idx(images))
        labels = np.arange(rows, dtype=np.uint8) % 10
        write(folder / f"{part}-labels-idx1-ubyte.gz", idx(labels))
    monkeypatch.setenv(FOLDER, str(tmp_path))
    return folder


@pytest.mark.parametrize("name", DATASETS)
def test_a_data_set_loads_without_a_network_and_is_scaled(name: str, fashion: Path) -> None:
    examples = DATASETS[name]().examples
    assert len(examples) > 500
    assert examples.features.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(examples.features, axis=1), 3.0, rtol=1e-5)
    assert examples.labels.min() == 0


@settings(max_examples=15, deadline=None)
@given(
    clients=st.integers(2, 60),
    partition=st.sampled_from(["iid", "dirichlet:0.05", "dirichlet:0.5", "dirichlet:100"]),
    seed=st.integers(0, 2**40),
    evaluate_on=st.sampled_from(["test", "validation"]),
)
def test_every_training_example_goes_to_one_client_and_none_is_judged_by(
    clients: int, partition: str, seed: int, evaluate_on: str
) -> None:
    federation = federate(
        "digits", clients=clients, partition=partition, seed=seed, evaluate_on=evaluate_on
    )
    assert len(federation.clients) == clients
    assert all(len(part) >= 2 for part in federation.clients)
    dealt = sum(map(len, federation.clients))
    assert dealt == {"test": 1437, "validation": 1149}[evaluate_on]
    assert len(federation.evaluation) == {"test": 360, "validation": 288}[evaluate_on]


def test_validation_never_sees_the_test_examples() -> None:
    def rows(evaluate_on: str) -> tuple[set[bytes], set[bytes]]:
        federation = federate("digits", clients=2, partition="iid", seed=3, evaluate_on=evaluate_on)
        training = {row.tobytes() for part in federation.clients for row in part.features}
        return training, {row.tobytes() for row in federation.evaluation.features}

    _, test = rows("test")
    training, validation = rows("validation")
    assert not test & (training | validation)


def test_what_one_seed_is_tested_on_no_other_seed_trains_or_validates_on() -> None:
    federations = [
        federate("digits", clients=2, partition="iid", seed=seed, evaluate_on=evaluate_on)
        for seed in (0, 5)
        for evaluate_on in ("test", "validation")
    ]
    first, validated, second, validated_too = federations
    seen = [client for federation in federations for client in federation.clients]
    seen += [validated.evaluation, validated_too.evaluation]
    test = {row.tobytes() for row in first.evaluation.features}
    assert test == {row.tobytes() for row in second.evaluation.features}
    assert not test & {row.tobytes() for examples in seen for row in examples.features}


def test_a_seed_fixes_the_split_and_another_changes_it() -> None:
    one, same, other = (
        federate("digits", clients=3, partition="iid", seed=seed).clients[0].labels
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_a_small_alpha_gives_clients_of_few_classes() -> None:
    def largest_share(partition: str) -> float:
        parts = federate("digits", clients=10, partition=partition, seed=0).clients
        return float(np.mean([np.bincount(part.labels).max() / len(part) for part in parts]))

    assert largest_share("dirichlet:0.05") > 0.5 > 0.3 > largest_share("dirichlet:100")


@pytest.mark.parametrize(
    "partition", ["", "IID", "dirichlet:0", "dirichlet:x", "dirichlet:nan", "a:1"]
)
def test_an_unknown_split_is_refused(partition: str) -> None:
    with pytest.raises(InputError, match="partition"):
        federate("digits", clients=2, partition=partition, seed=0)


def test_more_clients_than_examples_are_refused() -> None:
    with pytest.raises(InputError, match="clients is 719"):
        federate("digits", clients=719, partition="iid", seed=0)


def test_dropouts_repeat_with_the_seed_and_have_the_probability_asked_for() -> None:
    assert simulated_dropouts(1000, 0.0, seed=1, round_number=1) == {}
    assert len(simulated_dropouts(1000, 1.0, seed=1, round_number=1)) == 1000
    gone = simulated_dropouts(10_000, 0.1, seed=1, round_number=1)
    assert gone == simulated_dropouts(10_000, 0.1, seed=1, round_number=1)
    assert gone != simulated_dropouts(10_000, 0.1, seed=1, round_number=2)
    assert 880 < len(gone) < 1120
    assert len(set(gone.values())) == 4


@given(
    shape=st.lists(st.integers(0, 5), min_size=1, max_size=4).map(tuple),
    data=st.data(),
)
def test_an_idx_file_comes_back_as_it_was_written_and_nothing_else_does(
    shape: tuple[int, ...], data: st.DataObject
) -> None:
    size = int(np.prod(shape))
    entries = np.frombuffer(data.draw(st.binary(min_size=size, max_size=size)), np.uint8)
    whole = idx(entries.reshape(shape))
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "file", whole)
        np.testing.assert_array_equal(read_idx(path, shape), entries.reshape(shape))
        place = data.draw(st.integers(0, 4 * len(shape) + 3))
        changed = bytearray(whole)
        changed[place] ^= data.draw(st.integers(1, 255))
        cut = data.draw(st.integers(0, len(whole) - 1))
        for wrong in (bytes(changed), whole[:cut], whole + b"\0"):
            with pytest.raises(InputError):
                read_idx(write(path, wrong), shape)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (idx(np.zeros((2, 3), np.uint8), kind=0x0D), "begins with 00000d02"),
        (idx(np.zeros((3, 2), np.uint8)), "lacks the bytes 00000802"),
        (idx(np.zeros((2, 3), np.uint8))[:-1], "holds 17 bytes"),
        (idx(np.zeros((2, 3), np.uint8)) + bytes(100), "holds 19 bytes or more"),
    ],
    ids=["floats", "another shape", "cut short", "too long"],
)
def test_an_idx_file_of_another_kind_or_size_is_refused(
    data: bytes, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        read_idx(write(tmp_path / "file", data), (2, 3))


def test_a_gzip_file_that_is_cut_changed_or_none_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "file", idx(np.zeros((2, 3), np.uint8)))
    whole = path.read_bytes()
    for wrong in (whole[:-1], whole[:-8] + bytes(8), whole[:12], b"no gzip file", b""):
        path.write_bytes(wrong)
        with pytest.raises(InputError):
            read_idx(path, (2, 3))


def test_a_large_file_is_not_unpacked_beyond_what_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    class Watched(gzip.GzipFile):
        def read(self, size: int | None = -1) -> bytes:
            asked.append(size)
            return super().read(size)

    path = write(tmp_path / "file", idx(np.zeros((1000, 1000), np.uint8)))
    monkeypatch.setattr("secagg.training.data.gzip.open", Watched)
    with pytest.raises(InputError):
        read_idx(path, (2, 3))
    assert asked == [4 + 2 * 4 + 6 + 1]


def test_the_test_examples_that_came_with_a_data_set_are_judged_by_and_never_trained_on(
    fashion: Path,
) -> None:
    def parts(evaluate_on: str, seed: int = 0) -> tuple[set[bytes], set[bytes]]:
        federation = federate(
            "fashion-mnist", clients=3, partition="iid", seed=seed, evaluate_on=evaluate_on
        )
        assert federation.classes == 10
        trained = {row.tobytes() for part in federation.clients for row in part.features}
        return trained, {row.tobytes() for row in federation.evaluation.features}

    own = DATASETS["fashion-mnist"]()
    assert own.test is not None
    examples, test = ({row.tobytes() for row in each.features} for each in (own.examples, own.test))
    assert (len(examples), len(test)) == (600, 100)
    assert parts("test") == parts("test", seed=1) == (examples, test)
    trained, held_out = parts("validation")
    assert (len(trained), len(held_out)) == (480, 120)
    assert trained | held_out == examples
    assert not examples & test


def test_data_that_nobody_fetched_says_how_to_fetch_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(FOLDER, raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="run `make data`") as refusal:
        federate("fashion-mnist", clients=2, partition="iid", seed=0)
    assert "\n" not in str(refusal.value)


def test_a_label_of_no_class_is_refused(
    fashion: Path,
) -> None:
    write(fashion / "t10k-labels-idx1-ubyte.gz", idx(np.full(100, 10, np.uint8)))
    with pytest.raises(InputError, match="label 10"):
        DATASETS["fashion-mnist"]()
