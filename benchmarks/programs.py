"""What programs print at full size: ``python benchmarks/programs.py [NAME ...]``.

Those of examples into results/programs.json and results/language.json, and benchmarks of networks
into results/networks.json: ``make figures`` draws their tables. Twelve minutes on two cores for the
first, a few for the last; language models (speakers_gpt2) take far longer. Fashion-MNIST, plays and
weights come by ``make data``; flare_sums needs the extra flare.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PROGRAMS = [
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
SPEAKERS = "python examples/speakers_gpt2/train.py --model"
MANY = f"{SPEAKERS} smollm2 --clients 300 --rank 1 --windows 1 --rounds 4"
LANGUAGE = [
    f"{SPEAKERS} smollm2",
    f"{MANY} --run plain",
    *(f"{MANY} --run private --clip 0.25 --epsilon {epsilon}" for epsilon in (2, 8, 32)),
    f"{SPEAKERS} gpt2 --run secure --clients 100 --rounds 1 --sparse",
    f"{SPEAKERS} gpt2 --layers 12 --width 768 --words 50257 --windows 2 --rounds 1 --run secure",
]
HTTP = "python benchmarks/http_sums.py"
NETWORKS = [
    f"{HTTP} sums --nodes 20 --entries 1000000",
    f"{HTTP} sums --nodes 1000 --entries 10000 --sums 2 --processes 2",
    f"{HTTP} sums --nodes 4 --entries 3000000",
    f"{HTTP} sums --nodes 16 --entries 3000000",
    f"{HTTP} mutants --bodies 100000",
    "python benchmarks/bench_ranks.py",
    "python benchmarks/flare_sums.py 10 10000",
    "python benchmarks/flare_sums.py 10 3000000",
]
COMMANDS = {"programs.json": PROGRAMS, "language.json": LANGUAGE, "networks.json": NETWORKS}
JSON_ALONE = {"benchmarks/http_sums.py", "benchmarks/flare_sums.py"}
WITH_A_FOLDER = {"softmax_784", "hospitals", "speakers_gpt2"}


def without_places(said: dict[str, Any]) -> dict[str, Any]:
    """The same without folders, which are not kept."""
    return {
        name: without_places(value) if isinstance(value, dict) else value
        for name, value in said.items()
        if name not in ("run", "ledgers")
    }


def measured(command: str) -> dict[str, Any]:
    """What a command prints as JSON. Its run's folder is not kept."""
    program, *words = command.split()
    run = [sys.executable, *(["-m", "torch.distributed.run"] if program == "torchrun" else [])]
    as_json = [] if JSON_ALONE & set(words) else ["--json"]
    with tempfile.TemporaryDirectory() as folder:
        out = [f"--out={folder}/run"] if WITH_A_FOLDER & set(command.split("/")) else []
        done = subprocess.run(
            [*run, *words, *out, *as_json],
            cwd=ROOT,
            env={"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | os.environ,
            stdout=subprocess.PIPE,
            text=True,
            check=False,  # gloo of torch 2.13 may abort a process that has ended its training
        )
    return without_places(json.loads(done.stdout))


def main(names: list[str]) -> None:
    for file, commands in COMMANDS.items():
        results = RESULTS / file
        kept = json.loads(results.read_text()) if results.exists() else {}
        for command in commands:
            if not names or any(name in command for name in names):
                print(command, flush=True)
                kept[command] = measured(command)
                ordered = {each: kept[each] for each in commands if each in kept}
                results.write_text(json.dumps(ordered, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
