"""The peak rates of the first CUDA device, measured with PyTorch; `peaks.measure` runs this module in a process."""

import json

import torch

from lstm_deploy.benchmark.peaks import fastest

SIDE = 8192
"""Of the square matrices that are multiplied."""
WORKING_SETS = tuple(1 << power for power in range(22, 31, 2))
"""Bytes: from 4 MiB to 1 GiB."""
PRECISIONS = {"float32": (torch.float32, False), "tf32": (torch.float32, True), "float16": (torch.float16, False)}
"""Data type, and whether products may use TF32."""


def main() -> None:
    """Print the peak rates as JSON."""
    cache = int(torch.cuda.get_device_properties(0).L2_cache_size)
    memory = [
        {"name": "L2" if used <= cache else "device memory", "working_set": used, "bytes_per_s": _bandwidth(used)}
        for used in WORKING_SETS
    ]
    rates = {name: _rate(dtype, tf32=tf32) for name, (dtype, tf32) in PRECISIONS.items()}
    print(json.dumps({"operations_per_s": rates, "caches": [("L2", cache)], "memory": memory}))  # noqa: T201


def _rate(dtype: torch.dtype, *, tf32: bool) -> float:
    """Operations per second of a product of matrices."""
    torch.backends.cuda.matmul.allow_tf32 = tf32
    a, b = (torch.randn(SIDE, SIDE, device="cuda", dtype=dtype) for _ in range(2))

    def multiply() -> None:
        torch.mm(a, b)
        torch.cuda.synchronize()

    return 2.0 * SIDE**3 / fastest(multiply, 0.5)


def _bandwidth(working_set: int) -> float:
    """Bytes per second of copies within a working set."""
    source = torch.empty(working_set // 8, device="cuda")  # half is read, half is written
    target, times = torch.empty_like(source), max(1, SIDE**2 // working_set)

    def copy() -> None:
        for _ in range(times):  # queued ahead of the device, so that launching weighs little
            target.copy_(source)
        torch.cuda.synchronize()

    return times * working_set / fastest(copy, 0.2)


if __name__ == "__main__":
    main()
