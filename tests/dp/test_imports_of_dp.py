import json
import subprocess
import sys

import pytest

HEAVY = ("dp_accounting", "scipy", "torch", "opacus")


@pytest.mark.parametrize(
    "module",
    [
        "dp.empirical",
        "dp.ledger.ledger",
        "dp.accounting.accountant",
        "dp.accounting.calibrate",
        "dp.accounting.events",
        "dp.noise.mechanisms",
    ],
)
def test_books_and_noise_load_no_framework_until_a_report_is_asked_for(module):
    code = f"import json, sys, {module}; print(json.dumps([m in sys.modules for m in {HEAVY}]))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert json.loads(found.stdout) == [False] * len(HEAVY)
