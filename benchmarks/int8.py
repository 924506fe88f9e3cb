"""What int8 saves and costs, and what being right on every CPU costs, one thread; `make bench-int8` calls it.

LSTMs with a Linear layer and random weights: latency and size do not depend on them. In the same rounds are timed the
float32 file, a copy of it as an A/A control (whose ratio shows the noise), and int8 files of three schemes.
`benchmarks/results/int8.json` and `int8.md` have a table for each CPU; `--cpu NAME` names it, where the name that the
system gives is not specific enough.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import lstm_deploy
from lstm_deploy.artifacts import environment
from lstm_deploy.artifacts.report_style import markdown_table
from lstm_deploy.contract.sampling import sample_inputs
from lstm_deploy.exporters.precision import metrics
from lstm_deploy.exporters.precision.int8_onnx import Settings, WeightRange, quantize_onnx
from lstm_deploy.exporters.precision.selection import times
from lstm_deploy.runtimes.onnxrt import OnnxRuntime

RESULTS = Path(__file__).parent / "results"
SIZES = ((1, 64, 1), (65, 128, 2), (40, 256, 3), (64, 512, 2))
"""Inputs, hidden size, layers; the Linear gives as many outputs as there are inputs."""
WEIGHTS: tuple[WeightRange, ...] = ("paired", "unsigned", "full")
BATCH, STEPS = 4, 300
"""Of the sequences on which outputs are compared."""


class Net(nn.Module):
    """Recurrent layers with a linear layer on every step."""

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int, kind: Callable[..., nn.Module] = nn.LSTM
    ) -> None:
        super().__init__()
        self.layers = kind(input_size, hidden_size, num_layers, batch_first=True)
        self.fc = nn.Linear(hidden_size, input_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of every step."""
        y: torch.Tensor = self.fc(self.layers(x)[0])
        return y


def main() -> None:
    """Measure every size on this CPU, and write the results of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", default=environment.describe()["cpu"]["model"])
    cpu = parser.parse_args().cpu
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / "int8.json"
    documents = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        results = [_measured(Path(folder), *size) for size in SIZES]
    documents[cpu] = {"environment": environment.describe(), "results": results}
    file.write_text(json.dumps(documents, indent=1) + "\n", encoding="utf-8")
    lines = [
        "One thread, one step of a stream, batch 1. The columns of int8 are its default, `paired`, whose sums are the "
        "same on every CPU; `unsigned`, which is too and keeps all 8 bits; and `full`, all 8 bits signed (`--int8-cpus "
        "vnni`), which saturates on CPUs without VNNI.",
        "",
        "`error` is the root mean square of the difference from float32's outputs, as a part of how much these vary, "
        f"over {STEPS} steps; the state error of the default is the largest difference from PyTorch, relative to the "
        "state's size, up to step 100 and step 10,000; `noise` is the time of the same float32 file under another name "
        "over its own, in the same rounds.",
        "",
    ]
    for name, document in documents.items():
        lines += [f"## {name}", "", *_table(document["results"]), ""]
    (RESULTS / "int8.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


def _table(results: list[dict[str, Any]]) -> list[str]:
    headings = [
        "LSTM",
        "bytes ÷ float32",
        "float32 µs",
        *(f"{scheme} µs" for scheme in WEIGHTS),
        "float32 ÷ paired",
        "noise",
    ]
    headings += [*(f"error, {scheme}" for scheme in WEIGHTS), "state error"]
    rows = [
        [
            found["name"],
            f"{found['bytes_ratio']:.3f}",
            *(f"{found['times'][key]['p50_us']:.1f}" for key in ("float32", *WEIGHTS)),
            f"{1 / found['times']['paired']['time_ratio']:.2f}",
            f"{found['times']['float32 again']['time_ratio']:.3f}",
            *(f"{found['errors'][scheme]:.4f}" for scheme in WEIGHTS),
            f"{found['state_error'][0]:.1e} → {found['state_error'][1]:.1e}",
        ]
        for found in results
    ]
    return markdown_table(headings, rows)


def _measured(folder: Path, input_size: int, hidden_size: int, num_layers: int) -> dict[str, Any]:
    name = f"{input_size}-{hidden_size}x{num_layers}"
    torch.manual_seed(0)
    bundle = lstm_deploy.export(
        Net(input_size, hidden_size, num_layers).eval(),
        folder / name,
        inputs={"x": f"float32[batch,seq,{input_size}]"},
        quantize="int8",
        formats=["onnx"],
    )
    paths = {"float32": bundle.path / "model.onnx", "float32 again": folder / "again.onnx"}
    shutil.copy(paths["float32"], paths["float32 again"])
    for scheme in WEIGHTS:
        paths[scheme] = folder / f"{scheme}.onnx"
        quantize_onnx(paths["float32"], paths[scheme], Settings(weights=scheme))
    timed = times(list(paths.values()), 100, rounds=31)
    curves = [
        dict(zip(profile.steps, profile.errors, strict=True))
        for profile in (bundle.manifest.parity.profiles if bundle.manifest.parity else ())
        if profile.artifact == "model.int8.onnx" and profile.output != "y"
    ]
    evidence = bundle.find("onnx", "int8").evidence
    assert evidence is not None
    return {
        "name": name,
        "bytes_ratio": evidence.bytes_ratio,
        "settings": evidence.settings,
        "state_error": [max(curve[step] for curve in curves) for step in (100, 10_000)],
        "errors": _errors(paths),
        "times": {label: timed[path] for label, path in paths.items()},
    }


def _errors(paths: dict[str, Path]) -> dict[str, float]:
    """The difference of the first output from float32's, by scheme of int8 weights."""
    outputs = {}
    for label in ("float32", *WEIGHTS):
        runtime = OnnxRuntime(paths[label])
        signature = runtime.signature
        inputs = sample_inputs(signature.inputs, {"batch": BATCH, "seq": STEPS}, np.random.default_rng(0))
        y = runtime.run({**inputs, **signature.initial_state(BATCH)})["y"]
        outputs[label] = {"y": y.reshape(-1, y.shape[-1])}
        runtime.close()
    return {scheme: metrics.difference(outputs[scheme], outputs["float32"])[0] for scheme in WEIGHTS}


if __name__ == "__main__":
    main()
