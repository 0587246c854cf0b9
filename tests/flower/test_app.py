import tomllib

import numpy as np
import pytest

from hospitals import server_app, task
from oracle import APP, EVERYBODY, LEARNING_RATE, STEPS, accuracy, averaged


def test_every_patient_is_at_one_hospital_and_a_fifth_is_held_out() -> None:
    sizes = [tuple(len(part) for part in task.load(number)) for number in range(4)]
    assert [sum(parts) for parts in sizes] == [303, 294, 123, 200]
    assert all(held_out == -(-sum((train, held_out)) // 5) for train, held_out in sizes)


def test_the_public_figures_of_the_app_are_those_of_its_patients() -> None:
    config = tomllib.loads((APP / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    sizes = [len(task.load(number)[0]) for number in EVERYBODY]
    assert (config["patients"], config["largest"]) == (sum(sizes), max(sizes))
    assert max(sizes) <= server_app.MEAN.max_weight
    assert (config["steps"], config["learning-rate"]) == (STEPS, LEARNING_RATE)


@pytest.mark.parametrize("hospital", range(4))
def test_a_hospitals_split_is_the_same_every_time(hospital: int) -> None:
    first, again = task.load(hospital), task.load(hospital)
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one.features, other.features)
        assert np.array_equal(one.ill, other.ill)


def test_a_patients_features_are_public_figures_and_the_patients_own() -> None:
    row = {"age": "65", "trestbps": "0", "chol": "", "thalch": "115", "oldpeak": "1"}
    row |= {"fbs": "", "exang": "TRUE"}
    row |= {"sex": "Male", "cp": "asymptomatic", "restecg": ""}
    measurements = [1.0, 0.0, 0.0, 1.0, 0.0, 1.0, -1.0, 0.0, 0.0, 0.0]  # (value, is missing) each
    flags = [0.0, 1.0, 1.0, 0.0]
    choices = [1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    assert task._features(row) == [1.0, *measurements, *flags, *choices]


def test_three_rounds_beat_calling_everybody_ill() -> None:
    ill = np.concatenate([task.load(number)[1].ill for number in range(4)])
    assert accuracy(averaged([EVERYBODY] * 3)) > max(ill.mean(), 1 - ill.mean()) + 0.15
