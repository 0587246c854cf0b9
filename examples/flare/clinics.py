"""The rows of each clinic, which stay where they are; yours would come from a file."""

import numpy as np

TRUE = np.array([1.0, -2.0, 0.5])


def gradient(weight: np.ndarray, site: str) -> tuple[np.ndarray, float, int]:
    """The gradient of the squared error, the error, and the number of rows."""
    clinic = int(site.split("-")[-1])
    rows = 100 + clinic
    inputs = np.sin(np.outer(np.arange(rows), [1.0, 2.3, 3.7]) + clinic)
    wrong = inputs @ weight - inputs @ TRUE
    return inputs.T @ wrong / rows, float(np.mean(wrong**2)), rows
