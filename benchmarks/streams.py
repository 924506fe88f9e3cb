"""What a step of a stream costs beside onnxruntime's own call, and a million steps through a pipe.

`make bench-streams` calls it. Results go to `benchmarks/results/streams.json` and `.md`.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from int8 import Net
from rounds import measure, ratio_text, write

import lstm_deploy

SIZES = ((1, 64, 1), (65, 128, 2), (40, 256, 3), (64, 512, 2))
"""Inputs, hidden size, layers."""
MILLION = 1_000_000


def main() -> None:
    document: dict[str, Any] = {"steps": {}}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in SIZES:
            name = "{}-{}x{}".format(*size)
            torch.manual_seed(0)
            bundle = lstm_deploy.export(
                Net(*size).eval(),
                Path(folder) / name,
                inputs={"x": f"float32[batch,seq,{size[0]}]"},
                formats=["onnx"],
            )
            found = document["steps"][name] = measure(_calls(bundle.path, size[0]), 200, 101, "bound")
            rows.append(
                [
                    name,
                    f"{found['bound']['us']:.1f}",
                    *(ratio_text(found[key]) for key in ("bound again", "step with out", "step", "run")),
                ]
            )
        document["pipe"] = pipe = _pipe(Path(folder) / "1-64x1")
    headings = ["LSTM", "bound µs", "bound again", "`step(x, out=y)`", "`step(x)`", "`session.run`"]
    notes = (
        "`bound` is `session.run_with_iobinding` alone, with two bindings in turn and nothing copied in or out; the "
        "others are their time over its, within rounds, with the 95 % interval.\n\n"
        f"{MILLION:,} steps of 1-64x1 through `lstm-deploy run --stream --raw`: {pipe['us_a_step']:.1f} µs a step, the "
        f"pipe included; resident memory {pipe['memory_kb'][0]:,} kB after 10,000 steps and "
        f"{pipe['memory_kb'][1]:,} kB at the end."
    )
    write("streams", document, headings, rows, notes)


def _calls(path: Path, features: int) -> dict[str, Any]:
    model = lstm_deploy.open(path)
    session, stream, plain = model.runtime().session, model.stream(), model.stream()  # type: ignore[attr-defined]
    bindings = _bindings(session, model.signature, features)
    x, out = np.random.default_rng(0).standard_normal((1, features)).astype(np.float32), np.empty((1, features), "f4")
    state = model.signature.initial_state(1)
    names = model.signature.output_names

    def bound(steps: int) -> None:
        run = session.run_with_iobinding
        for step in range(steps):
            run(bindings[step & 1])

    def step_with_out(steps: int) -> None:
        step = stream.step
        for _ in range(steps):
            step(x, out=out)

    def step(steps: int) -> None:
        call = plain.step
        for _ in range(steps):
            call(x)

    def run(steps: int) -> None:
        h, c = state.values()
        for _ in range(steps):
            _, h, c = session.run(names, {"x": x[None], "h_in": h, "c_in": c})

    return {"bound": bound, "bound again": bound, "step with out": step_with_out, "step": step, "run": run}


def _bindings(session: Any, signature: Any, features: int) -> list[Any]:
    """As somebody who knows onnxruntime would write it."""
    kept.append(arrays := [{**signature.initial_state(1)} for _ in range(2)])
    kept.append(inputs := np.zeros((1, 1, features), np.float32))
    kept.append(outputs := np.zeros((1, 1, features), np.float32))
    bindings = []
    for before, after in (arrays, arrays[::-1]):
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(inputs))
        binding.bind_ortvalue_output("y", ort.OrtValue.ortvalue_from_numpy(outputs))
        for letter in "hc":
            binding.bind_ortvalue_input(f"{letter}_in", ort.OrtValue.ortvalue_from_numpy(before[f"{letter}_in"]))
            binding.bind_ortvalue_output(f"{letter}_out", ort.OrtValue.ortvalue_from_numpy(after[f"{letter}_in"]))
        bindings.append(binding)
    return bindings


kept: list[Any] = []
"""Arrays whose memory bindings use."""


def _pipe(path: Path) -> dict[str, Any]:
    """A million frames in, a million out, and what the process holds on the way."""
    words = [sys.executable, "-m", "lstm_deploy", "run", str(path), "--stream", "--raw"]
    frames = np.random.default_rng(0).standard_normal(1000).astype("<f4").tobytes()
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        memory, start = [], 0.0
        for block in range(MILLION // 1000):
            process.stdin.write(frames)
            process.stdin.flush()
            assert len(process.stdout.read(len(frames))) == len(frames)
            if block == 9:
                memory.append(_resident_kb(process.pid))
                start = time.perf_counter()
        seconds = time.perf_counter() - start
        memory.append(_resident_kb(process.pid))
    return {"us_a_step": seconds / (MILLION - 10_000) * 1e6, "memory_kb": memory}


def _resident_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status")
    return int(status.read_text().partition("VmRSS:")[2].split()[0]) if status.exists() else 0


if __name__ == "__main__":
    main()
