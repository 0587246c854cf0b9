"""A clinic's own program: three steps of linear regression on its own rows, which stay here."""

import os
import sys

import numpy as np

TRUE = np.array([1.0, -2.0, 0.5])


def rows() -> tuple[np.ndarray, np.ndarray]:
    """Those of the clinic that CLINIC names; yours would come from a file."""
    inputs = np.sin(np.outer(np.arange(100), [1.0, 2.3, 3.7]) + int(os.environ["CLINIC"]))
    return inputs, inputs @ TRUE


def train(model, proposal):
    """Called once a sum: named arrays in, the same names and shapes out, and numbers."""
    inputs, outputs = rows()
    weight = model["weight"].astype(float)
    for _ in range(3):
        weight -= 0.5 * inputs.T @ (inputs @ weight - outputs) / len(outputs)
    loss = np.mean((inputs @ weight - outputs) ** 2)
    arrays = {"weight": weight.astype(np.float32)}
    return arrays, {"num-examples": len(outputs), "loss": float(loss)}


if __name__ == "__main__":  # the model to begin with
    np.savez(sys.argv[1], weight=np.zeros(3, np.float32))
