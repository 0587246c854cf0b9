"""The sums of ``secagg serve``, by its settings: each table in a thread of its own."""

import io
import time
import zipfile
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from protocols.errors import ProtocolError
from secagg.adapters.http.server import Server
from secagg.adapters.http.settings import SumPlan
from secagg.adapters.http.watch import log
from secagg.errors import InputError, NodeError
from secagg.files import write_atomically
from secagg.vectors.arrays import Arrays, arrays_of, parts_of

FIRST: Final = 3  # sums that come to nothing, of a server that had none yet, end it
LATER: Final = 10  # the same once there was one; nodes bring a model to a few sums only


def run_plan(server: Server, plan: SumPlan) -> None:
    """Carry all sums of one table of the settings, going on where the last server was.

    Raises:
      InputError: a file of a model cannot be read or written.
      NodeError: sum after sum came to nothing.
    """
    sums = server.sums(plan.purpose, plan.summed, plan.cohort)
    kept = server.store.model(plan.purpose)
    done, model = (kept[0], arrays_of(kept[1])) if kept else (0, read_model(plan.model))
    began, lost = done, 0
    while done < plan.rounds:
        try:
            outcome = sums.run(model, nodes=plan.nodes)
        except (ProtocolError, InputError):
            if server.app.tasks.closed:
                return
            lost += 1
            if lost >= (FIRST if done == began else LATER):
                raise NodeError(
                    f"{lost} sums of {plan.purpose} in a row came to nothing, the last: "
                    f"{sums.history[-1].failure}"
                ) from None
        else:
            done, lost, model = done + 1, 0, dict(outcome.model)
            metrics = dict(outcome.metrics)
            log("result", purpose=plan.purpose, sums=done, weight=outcome.weight, metrics=metrics)
            server.store.keep(plan.purpose, done, b"".join(parts_of(model)))
            if plan.out:
                write_model(plan.out, model)
        if done < plan.rounds:
            time.sleep(plan.pause)


def read_model(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an ``.npz`` file.

    Raises:
      InputError: it cannot be read, or holds what is no array of numbers.
    """
    try:
        with np.load(path, allow_pickle=False) as held:
            return {name: held[name] for name in held.files}
    except (OSError, ValueError, EOFError, AttributeError) as error:
        raise InputError(f"{path} is no .npz file of arrays: {error}") from None


def write_model(path: Path, model: Arrays) -> None:
    """Replace an ``.npz`` file, whole or not at all."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as npz:  # numpy.savez takes no array that is called "file"
        for name, array in model.items():
            with npz.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asarray(array), allow_pickle=False)
    write_atomically(path, held.getvalue())
