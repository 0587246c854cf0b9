"""Coverage-guided fuzzing with Atheris: ``python tests/fuzz/fuzz_messages.py TARGET [options]``.

Atheris is no dependency of the tests: install it by hand. Without a target the
names are listed. Options are libFuzzer's, such as ``-max_total_time=60``. The
same targets are driven by hypothesis in ``test_fuzz.py``.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["protocols", "secagg.nodes"]):
    from targets import targets


def main() -> None:
    known = targets()
    if len(sys.argv) < 2 or sys.argv[1] not in known:
        sys.exit("\n".join(["give one of these:", *known]))
    name = sys.argv.pop(1)
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(known[name].seeds):
            Path(corpus, str(number)).write_bytes(seed)
        atheris.Setup([*sys.argv, corpus], known[name])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
