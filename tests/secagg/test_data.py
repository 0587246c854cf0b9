import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg.data import DATASETS, federate, simulated_dropouts
from secagg.errors import ConfigError


@pytest.mark.parametrize("name", DATASETS)
def test_a_data_set_loads_without_a_network_and_is_scaled(name: str) -> None:
    examples = DATASETS[name]()
    assert len(examples) > 500
    assert examples.features.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(examples.features, axis=1), 3.0, rtol=1e-5)
    assert examples.labels.min() == 0


@settings(max_examples=15, deadline=None)
@given(
    clients=st.integers(2, 60),
    split=st.sampled_from(["iid", "dirichlet:0.05", "dirichlet:0.5", "dirichlet:100"]),
    seed=st.integers(0, 2**40),
    judge=st.sampled_from(["test", "validation"]),
)
def test_every_training_example_goes_to_one_client_and_none_is_judged_by(
    clients: int, split: str, seed: int, judge: str
) -> None:
    federation = federate("digits", clients=clients, split=split, seed=seed, judge=judge)
    assert len(federation.clients) == clients
    assert all(len(part) >= 2 for part in federation.clients)
    dealt = sum(map(len, federation.clients))
    assert dealt == {"test": 1437, "validation": 1149}[judge]
    assert len(federation.judged_by) == {"test": 360, "validation": 288}[judge]


def test_validation_never_sees_the_test_examples() -> None:
    def rows(judge: str) -> tuple[set[bytes], set[bytes]]:
        federation = federate("digits", clients=2, split="iid", seed=3, judge=judge)
        training = {row.tobytes() for part in federation.clients for row in part.features}
        return training, {row.tobytes() for row in federation.judged_by.features}

    _, test = rows("test")
    training, validation = rows("validation")
    assert not test & (training | validation)


def test_a_seed_fixes_the_split_and_another_changes_it() -> None:
    one, same, other = (
        federate("digits", clients=3, split="iid", seed=seed).clients[0].labels
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_a_small_alpha_gives_clients_of_few_classes() -> None:
    def largest_share(split: str) -> float:
        parts = federate("digits", clients=10, split=split, seed=0).clients
        return float(np.mean([np.bincount(part.labels).max() / len(part) for part in parts]))

    assert largest_share("dirichlet:0.05") > 0.5 > 0.3 > largest_share("dirichlet:100")


@pytest.mark.parametrize("split", ["", "IID", "dirichlet:0", "dirichlet:x", "dirichlet:nan", "a:1"])
def test_an_unknown_split_is_refused(split: str) -> None:
    with pytest.raises(ConfigError, match="split"):
        federate("digits", clients=2, split=split, seed=0)


def test_more_clients_than_examples_are_refused() -> None:
    with pytest.raises(ConfigError, match="719 clients"):
        federate("digits", clients=719, split="iid", seed=0)


def test_dropouts_repeat_with_the_seed_and_have_the_probability_asked_for() -> None:
    assert simulated_dropouts(1000, 0.0, seed=1, round_number=1) == {}
    assert len(simulated_dropouts(1000, 1.0, seed=1, round_number=1)) == 1000
    gone = simulated_dropouts(10_000, 0.1, seed=1, round_number=1)
    assert gone == simulated_dropouts(10_000, 0.1, seed=1, round_number=1)
    assert gone != simulated_dropouts(10_000, 0.1, seed=1, round_number=2)
    assert 880 < len(gone) < 1120
    assert len(set(gone.values())) == 4
