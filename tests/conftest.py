"""One thread a process, and no word to anybody: read when torch, Flower or Ray are imported."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests run in as many processes as cores
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
