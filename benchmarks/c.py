"""What a step takes as C beside onnxruntime with bound buffers, in float32 and int8; `make bench-c` calls it.

One thread, one row. All are called from Python in the same rounds, so each pays for one call of a foreign function;
`in C` is as many steps in one call: what a program that embeds the file sees. Results go to
`benchmarks/results/c.json` and `c.md`.
"""

import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from int8 import SIZES, Net
from rounds import measure, ratio_text, write
from torch import nn

import lstm_deploy
from lstm_deploy.artifacts.report_style import markdown_table
from lstm_deploy.benchmark import peaks
from lstm_deploy.contract import GRU, LSTM, Cell
from lstm_deploy.runtimes import c_compiler
from lstm_deploy.runtimes.protocol import Recurrence, Runtime

PAGE = Path(__file__).parents[1] / "docs" / "c.md"
MARKS = ("<!-- c: made by benchmarks/c.py -->", "<!-- c: end -->")
Size = tuple[int, int, int]


KINDS: dict[str, Cell] = {"": LSTM, "gru-": GRU}
"""By what stands before the size in the name of a row."""


def main() -> None:
    document: dict[str, Any] = {"peaks": peaks.measure(), "sizes": {}}
    with tempfile.TemporaryDirectory() as folder:
        for prefix, cell in KINDS.items():
            for size in SIZES:
                name = "{}{}-{}x{}".format(prefix, *size)
                document["sizes"][name] = _measured(Path(folder) / name, cell, size)
    rows = [
        [
            name,
            f"{found['onnx']['us']:.1f}",
            ratio_text(found["onnx again"]),
            f"{found['c']['us']:.2f}",
            ratio_text(found["c"]),
            f"{found['c, in C']['us']:.2f}",
            _int8_us(found),
            f"{found['c int8']['us']:.2f}",
            ratio_text(found["int8"]),
            f"{found['c int8, in C']['us']:.2f}",
            f"{found['bytes']['weights']:,}",
            f"{found['bytes']['weights'] / found['c, in C']['us'] / 1e3:.0f}",
            f"{found['bytes']['code']:,}",
        ]
        for name, found in document["sizes"].items()
    ]
    headings = [
        "layers",
        "onnxruntime µs",
        "again",
        "C µs",
        "÷ onnxruntime",
        "in C µs",
        "onnxruntime int8 µs",
        "C int8 µs",
    ]
    headings += ["÷ onnxruntime int8", "int8 in C µs", "bytes read", "GB/s", "code bytes"]
    memory = document["peaks"]["memory"]
    reached = ", ".join(f"{each['bytes_per_s'] / 1e9:.0f} of {each['working_set']:,}" for each in memory)
    notes = (
        "`onnxruntime` is `run_with_iobinding` with everything bound once; ratios are within rounds, with the 95 % "
        "interval. `in C` is the time of a step when all are made in one call. `bytes read` are the float32 weights of "
        f"a step, and `GB/s` is what that comes to, in C. This core, in that minute, reads (GB/s of bytes): {reached}."
        " Small GRUs have no int8 ONNX: C's int8 is compared with float32 there."
        " `code bytes` are the code and constants of the compiled float32 file; weights that are mapped lie beside it."
    )
    write("c", document, headings, rows, notes)
    before, rest = PAGE.read_text(encoding="utf-8").split(MARKS[0])
    page = f"{before}{MARKS[0]}\n{short_table(document)}\n{MARKS[1]}{rest.split(MARKS[1])[1]}"
    PAGE.write_text(page, encoding="utf-8")


def short_table(document: dict[str, Any]) -> str:
    """What stands in `docs/c.md`."""
    rows = [
        [
            name,
            f"{found['onnx']['us']:.1f}",
            f"{found['c']['us']:.2f}",
            f"{found['c']['ratio']:.2f}",
            _int8_us(found),
            f"{found['c int8']['us']:.2f}",
            f"{found['int8']['ratio']:.2f}",
        ]
        for name, found in document["sizes"].items()
    ]
    headings = ["inputs-hidden×layers", "onnxruntime µs", "C µs", "ratio", "int8: onnxruntime µs", "C µs", "ratio"]
    return "\n".join(markdown_table(headings, rows))


def _int8_us(found: dict[str, Any]) -> str:
    return f"{found['onnx int8']['us']:.1f}" if "onnx int8" in found else "–"


def _measured(path: Path, cell: Cell, size: Size) -> dict[str, Any]:
    torch.manual_seed(0)
    bundle = lstm_deploy.export(
        Net(*size, kind=getattr(nn, cell.pytorch_modules[0])).eval(),
        path,
        inputs={"x": f"float32[batch,seq,{size[0]}]"},
        formats=["onnx", "c"],
        quantize="int8",
        max_metric_loss=1.0,
    )
    has_int8 = "model.int8.onnx" in [artifact.path for artifact in bundle.manifest.artifacts]
    model = lstm_deploy.open(bundle.path)
    calls: dict[str, Callable[[int], object]] = {}
    for name, runtime, precision in (
        ("onnx", "onnx", "float32"),
        ("onnx again", "onnx", "float32"),
        ("c", "native", "float32"),
        *([("onnx int8", "onnx", "int8")] if has_int8 else []),
        ("c int8", "native", "int8"),
    ):
        calls[name] = _steps(model.runtime(precision=precision, runtime=runtime))
    for precision in ("float32", "int8"):
        name = "c, in C" if precision == "float32" else "c int8, in C"
        calls[name] = _long(model.runtime(precision=precision, runtime="native"))
    steps = max(20, 6000 // size[1])
    found: dict[str, Any] = measure(calls, steps, 61, "onnx")
    other = "onnx int8" if has_int8 else "onnx"
    found["int8"] = measure({name: calls[name] for name in (other, "c int8")}, steps, 61, other)["c int8"]
    source = bundle.path / "model.c"
    found["bytes"] = {"weights": _weights(cell, size), "code": _code(source)}
    return found


def _steps(runtime: Runtime) -> Callable[[int], object]:
    recurrence = _filled(runtime.recur(1, 1))

    def steps(count: int) -> None:
        advance = recurrence.advance
        for _ in range(count):
            advance()

    return steps


def _long(runtime: Runtime) -> Callable[[int], object]:
    """As many steps as are asked for, all in one call."""
    calls: dict[int, Recurrence] = {}

    def steps(count: int) -> None:
        if count not in calls:
            calls[count] = _filled(runtime.recur(1, count))
        calls[count].advance()

    return steps


def _filled(recurrence: Recurrence) -> Recurrence:
    """With inputs, so that nothing is zero."""
    for value in recurrence.inputs.values():
        value[...] = np.random.default_rng(0).standard_normal(value.shape)
    recurrence.step()
    return recurrence


def _weights(cell: Cell, size: Size) -> int:
    """Bytes of float32 weights that a step reads."""
    inputs, hidden, layers = size
    rows = len(cell.onnx_gates) * hidden
    first, further = rows * (inputs + hidden + 1), rows * (2 * hidden + 1)
    return 4 * (first + (layers - 1) * further + inputs * (hidden + 1))


def _code(source: Path) -> int:
    """Bytes of code and constants of a C artifact."""
    with tempfile.TemporaryDirectory() as folder:
        compiled = Path(folder) / "model.o"
        subprocess.run(
            [*c_compiler.find_compiler(), "-std=c99", "-O3", "-c", str(source), "-o", str(compiled)], check=True
        )
        sizes = subprocess.run(["size", str(compiled)], check=True, capture_output=True, text=True).stdout
    return int(sizes.splitlines()[1].split()[0])


if __name__ == "__main__":
    main()
