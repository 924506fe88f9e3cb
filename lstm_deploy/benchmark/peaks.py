"""What this machine can do, measured: operations per second, and bytes per second out of each level of memory.

It runs in a process of its own, since the libraries that it measures with read the number of threads when they start:

    python -m lstm_deploy.benchmark.peaks cpu 1    ->    one line of JSON
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lstm_deploy.errors import LstmDeployError
from lstm_deploy.runtimes import PROVIDERS

SIDE = 1024
"""Of the square matrices that are multiplied."""
CUDA_SIDE = 8192
WORKING_SETS = tuple(1 << power for power in range(14, 29, 2))
"""Bytes that are read again and again, from 16 KiB to 256 MiB: what they fit into decides how fast."""
CUDA_WORKING_SETS = tuple(1 << power for power in range(22, 31, 2))
CALL_BYTES = 1 << 23
DEFAULT_CACHES = (("L1", 32 << 10), ("L2", 1 << 20), ("L3", 16 << 20))
"""Where the system does not tell."""


def measure(provider: str = "cpu", threads: int = 1) -> dict[str, Any]:
    """`operations_per_s` by precision, `caches` with their sizes, and `memory`: the `bytes_per_s` of working sets."""
    variables = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
    child = subprocess.run(
        [sys.executable, "-P", "-m", __name__, provider, str(threads)],
        stdout=subprocess.PIPE,
        env={**os.environ, **dict.fromkeys(variables, str(threads))},
        text=True,
        check=False,
    )
    if child.returncode:
        raise LstmDeployError(
            f"Measuring what this machine can do failed (exit code {child.returncode}); see above, or use "
            "--no-roofline."
        )
    found: dict[str, Any] = json.loads(child.stdout)
    return {"provider": provider, "threads": threads, **found}


def main() -> None:
    """Measure on the provider and with the threads that the command line names."""
    provider, threads = sys.argv[1], int(sys.argv[2])
    print(json.dumps(_cuda() if PROVIDERS[provider].device == "cuda" else _cpu(threads)))  # noqa: T201 - read by `measure`


def caches() -> list[tuple[str, int]]:
    """Name and bytes of each level of data cache that one core sees."""
    found = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            kind, level, size = ((index / name).read_text().strip() for name in ("type", "level", "size"))
        except OSError:  # firmware does not always tell the size
            continue
        match = re.fullmatch(r"(\d+)([KMG]?)", size)
        if kind != "Instruction" and match:
            found[f"L{level}"] = int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]]
    return sorted(found.items(), key=lambda item: item[1]) or list(DEFAULT_CACHES)


def _cpu(threads: int) -> dict[str, Any]:
    import numpy as np
    from numpy.lib.stride_tricks import as_strided

    a, b, c = (np.ones((SIDE, SIDE), np.float32) for _ in range(3))
    rate = 2.0 * SIDE**3 / _fastest(lambda: np.matmul(a, b, out=c), 0.3)
    levels = caches()
    memory = []
    for used in WORKING_SETS:
        # The same two vectors, multiplied again and again within one call, so that the call itself weighs nothing.
        length, times = used // 8, max(1, CALL_BYTES // used)
        x, y = np.ones(length, np.float32), np.ones(length, np.float32)
        rows = as_strided(x, (times, 1, length), (0, 4 * length, 4))
        columns = as_strided(y, (times, length, 1), (0, 4, 4))
        seconds = _fastest(lambda rows=rows, columns=columns: np.matmul(rows, columns), 0.05)  # type: ignore[misc]
        name = next((level for level, size in levels if used <= size), "memory")
        memory.append({"name": name, "working_set": used, "bytes_per_s": times * used / seconds})
    return {"operations_per_s": {"float32": rate, "int8": _int8_rate(threads)}, "caches": levels, "memory": memory}


def _int8_rate(threads: int) -> float:
    """Of products of int8 with sums in int32, in onnxruntime: numpy has no fast one."""
    import numpy as np
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weights = numpy_helper.from_array(rng.integers(-127, 127, (SIDE, SIDE), np.int8), "w")
    x = helper.make_tensor_value_info("x", TensorProto.UINT8, [SIDE, SIDE])
    y = helper.make_tensor_value_info("y", TensorProto.INT32, [SIDE, SIDE])
    graph = helper.make_graph([helper.make_node("MatMulInteger", ["x", "w"], ["y"])], "int8", [x], [y], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {"x": rng.integers(0, 255, (SIDE, SIDE), np.uint8)}
    return 2.0 * SIDE**3 / _fastest(lambda: session.run(None, feeds), 0.2)


def _cuda() -> dict[str, Any]:
    import torch

    def rate(dtype: torch.dtype, *, tf32: bool) -> float:
        torch.backends.cuda.matmul.allow_tf32 = tf32
        a, b = (torch.randn(CUDA_SIDE, CUDA_SIDE, device="cuda", dtype=dtype) for _ in range(2))

        def multiply() -> None:
            torch.mm(a, b)
            torch.cuda.synchronize()

        return 2.0 * CUDA_SIDE**3 / _fastest(multiply, 0.5)

    cache = int(torch.cuda.get_device_properties(0).L2_cache_size)
    memory = []
    for used in CUDA_WORKING_SETS:
        source = torch.empty(used // 8, device="cuda")  # half is read, half is written
        target, times = torch.empty_like(source), max(1, CUDA_SIDE**2 // used)

        def copy(source: Any = source, target: Any = target, times: int = times) -> None:
            for _ in range(times):  # launched ahead of the device, so that launching weighs little
                target.copy_(source)
            torch.cuda.synchronize()

        name = "L2" if used <= cache else "device memory"
        memory.append({"name": name, "working_set": used, "bytes_per_s": times * used / _fastest(copy, 0.2)})
    found = {"float32": (torch.float32, False), "tf32": (torch.float32, True), "float16": (torch.float16, False)}
    rates = {name: rate(dtype, tf32=tf32) for name, (dtype, tf32) in found.items()}
    return {"operations_per_s": rates, "caches": [("L2", cache)], "memory": memory}


def _fastest(call: Callable[[], object], seconds: float) -> float:
    """What the fastest of many calls takes: a peak is what is possible, not what is usual."""
    call()
    best, end = float("inf"), time.perf_counter() + seconds
    while True:
        start = time.perf_counter_ns()
        call()
        best = min(best, time.perf_counter_ns() - start)
        if time.perf_counter() > end:
            return best / 1e9


if __name__ == "__main__":
    main()
