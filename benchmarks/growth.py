"""Growth of costs: writes results/growth.json and results/growth.svg.

python benchmarks/growth.py            n = 10 .. 10,000, d = 10^4 .. 10^8, some ten minutes
python benchmarks/growth.py --quick    up to 1,000 and 10^6
"""

import json
import sys
from pathlib import Path

from rich.progress import track

from secagg.costs import as_json, plot, sweep

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Measure, and write both files."""
    quick = "--quick" in sys.argv
    clients = [10, 100, 1000] if quick else [10, 100, 1000, 10_000]
    entries = [10**4, 10**5, 10**6] if quick else [10**4, 10**5, 10**6, 10**7, 10**8]
    points = []
    for point in track(sweep(clients, entries), total=len(clients) * len(entries)):
        points.append(point)
        print(point)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "growth.json").write_text(json.dumps(as_json(points), indent=1) + "\n")
    (RESULTS / "growth.svg").write_bytes(plot(points))


if __name__ == "__main__":
    main()
