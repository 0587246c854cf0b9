"""Makes the example and this folder's helper importable: the tests are loaded by path."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "examples" / "flower")]
