"""What the programs of examples print at full size: ``python benchmarks/programs.py [NAME ...]``.

Into results/programs.json, from which ``make figures`` draws docs/programs.md. Twelve minutes on
two cores; Fashion-MNIST comes by ``make data``.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "programs.json"
COMMANDS = [
    *(
        f"python examples/linear_regression/train.py --data {data} --clients {clients}"
        for data in ("diabetes", "synthetic")
        for clients in (2, 10)
    ),
    *(
        f"python examples/softmax_784/train.py --clients {clients} --alpha {alpha}"
        for clients in (5, 100)
        for alpha in (1, 0.1)
    ),
    *(f"python examples/hospitals/train.py --fold {fold}" for fold in range(5)),
    *(
        f"torchrun --nproc-per-node 4 examples/ddp/train.py --model {model}"
        for model in ("softmax", "gpt")
    ),
]


def measured(command: str) -> dict[str, object]:
    """What a command prints as JSON. Its run's folder is not kept."""
    program, *words = command.split()
    run = [sys.executable, *(["-m", "torch.distributed.run"] if program == "torchrun" else [])]
    with tempfile.TemporaryDirectory() as folder:
        out = (
            [f"--out={folder}/run"]
            if {"softmax_784", "hospitals"} & set(command.split("/"))
            else []
        )
        done = subprocess.run(
            [*run, *words, *out, "--json"],
            cwd=ROOT,
            env={"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | os.environ,
            stdout=subprocess.PIPE,
            text=True,
            check=False,  # gloo of torch 2.13 may abort a process that has ended its training
        )
    said: dict[str, object] = json.loads(done.stdout)
    return {name: value for name, value in said.items() if name not in ("run", "ledgers")}


def main(names: list[str]) -> None:
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for command in COMMANDS:
        if not names or any(f"/{name}/" in command for name in names):
            print(command, flush=True)
            kept[command] = measured(command)
            ordered = {each: kept[each] for each in COMMANDS if each in kept}
            RESULTS.write_text(json.dumps(ordered, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
