"""The peak rates of this CPU, measured with numpy and onnxruntime; `peaks.measure` runs this module in a process."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.lib.stride_tricks import as_strided
from onnx import TensorProto, helper, numpy_helper

from lstm_deploy.benchmark.peaks import fastest

SIDE = 1024
"""Of the square matrices that are multiplied."""
WORKING_SETS = tuple(1 << power for power in range(14, 29, 2))
"""Bytes that are read again and again, from 16 KiB to 256 MiB: the memory that they fit into limits the speed."""
CALL_BYTES = 1 << 23
DEFAULT_CACHES = (("L1", 32 << 10), ("L2", 1 << 20), ("L3", 16 << 20))
"""Where the system does not report them."""


def main() -> None:
    """Print the peak rates as JSON, with as many threads as the command line says."""
    levels = caches()
    memory = [
        {
            "name": next((level for level, size in levels if used <= size), "memory"),
            "working_set": used,
            "bytes_per_s": _bandwidth(used),
        }
        for used in WORKING_SETS
    ]
    rates = {"float32": _float32_rate(), "int8": _int8_rate(int(sys.argv[1]))}
    print(json.dumps({"operations_per_s": rates, "caches": levels, "memory": memory}))  # noqa: T201


def caches() -> list[tuple[str, int]]:
    """Name and bytes of each level of data cache that one core sees."""
    sizes = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            kind, level, size = ((index / name).read_text().strip() for name in ("type", "level", "size"))
        except OSError:  # firmware does not always report the size
            continue
        match = re.fullmatch(r"(\d+)([KMG]?)", size)
        if kind != "Instruction" and match:
            sizes[f"L{level}"] = int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]]
    return sorted(sizes.items(), key=lambda item: item[1]) or list(DEFAULT_CACHES)


def _float32_rate() -> float:
    """Operations per second of a product of matrices."""
    a, b, c = (np.ones((SIDE, SIDE), np.float32) for _ in range(3))
    return 2.0 * SIDE**3 / fastest(lambda: np.matmul(a, b, out=c), 0.3)


def _int8_rate(threads: int) -> float:
    """Operations per second of a product of int8 with sums in int32, in onnxruntime: numpy has no fast one."""
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
    return 2.0 * SIDE**3 / fastest(lambda: session.run(None, feeds), 0.2)


def _bandwidth(working_set: int) -> float:
    """Bytes per second of reading a working set again and again."""
    # The same two vectors, multiplied repeatedly within one call, so that the call itself weighs nothing.
    length, times = working_set // 8, max(1, CALL_BYTES // working_set)
    x, y = np.ones(length, np.float32), np.ones(length, np.float32)
    rows = as_strided(x, (times, 1, length), (0, 4 * length, 4))
    columns = as_strided(y, (times, length, 1), (0, 4, 4))
    return times * working_set / fastest(lambda: np.matmul(rows, columns), 0.05)


if __name__ == "__main__":
    main()
