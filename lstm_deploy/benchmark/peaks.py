"""The peak rates of this machine, measured: operations per second, and bytes per second from each level of memory.

Each measurement runs in a process of its own, since the libraries that it uses read the number of threads when they
start:

    python -m lstm_deploy.benchmark.cpu_peaks 1    ->    one line of JSON
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from lstm_deploy.errors import LstmDeployError
from lstm_deploy.runtimes import PROVIDERS

THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def measure(provider: str = "cpu", threads: int = 1) -> dict[str, Any]:
    """`operations_per_s` by precision, `caches` with their sizes, and `memory`: the `bytes_per_s` of working sets.

    Raises `LstmDeployError` where the process fails.
    """
    module = "cuda_peaks" if PROVIDERS[provider].device == "cuda" else "cpu_peaks"
    child = subprocess.run(
        [sys.executable, "-P", "-m", f"lstm_deploy.benchmark.{module}", str(threads)],
        stdout=subprocess.PIPE,
        env={**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))},
        text=True,
        check=False,
    )
    if child.returncode:
        raise LstmDeployError(
            f"Measuring the peak rates of this machine failed (exit code {child.returncode}); see above, or use "
            "--no-roofline."
        )
    return {"provider": provider, "threads": threads, **json.loads(child.stdout)}


def fastest(call: Callable[[], object], seconds: float) -> float:
    """Seconds that the fastest of many calls takes: a peak is what is possible, not what is usual."""
    call()
    best, end = float("inf"), time.perf_counter() + seconds
    while True:
        start = time.perf_counter_ns()
        call()
        best = min(best, time.perf_counter_ns() - start)
        if time.perf_counter() > end:
            return best / 1e9
