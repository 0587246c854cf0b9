"""Makes the example and the helpers of tests importable: the tests are loaded by path."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[1] / "examples" / "flower"
sys.path[:0] = [str(HERE), str(EXAMPLE)]
