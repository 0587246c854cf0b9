"""A survivor that brings nothing hides nobody: SECURITY.md says so, and noise is what closes it."""

import numpy as np

import secagg


def test_the_mean_of_one_weight_above_zero_is_that_clients_update() -> None:
    update = np.array([0.5, -0.25, 0.125])
    idle = [np.zeros(3), np.zeros(3)]
    found = secagg.aggregate([update, *idle], clip=1.0, weights=[40, 0, 0])
    assert found.survivors == (0, 1, 2)
    assert np.abs(found.mean - update).max() < 1e-3
