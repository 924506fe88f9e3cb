"""What int8 saves and costs at the size where it matters, one thread; `make bench-int8` calls it.

LSTM(64, 512, 2 layers) with a Linear of 64: weights are random, latency and size do not depend on them. Two float32
files of the same bytes are timed in the same rounds, so that their ratio shows the noise. Results go to
`benchmarks/results/int8.json` and `int8.md`.
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

import lstm_deploy
from lstm_deploy import environment
from lstm_deploy.exporters.precision import times
from lstm_deploy.tables import markdown_table

RESULTS = Path(__file__).parent / "results"
SIZES = ((1, 64, 1), (65, 128, 2), (40, 256, 3), (64, 512, 2))
"""Inputs, hidden size, layers; the Linear gives as many outputs as there are inputs."""


class Net(nn.Module):
    """An LSTM with a linear layer on every step."""

    def __init__(self, input_size: int, hidden_size: int, num_layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(input_size, hidden_size, num_layers, batch_first=True)
        self.fc = nn.Linear(hidden_size, input_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of every step."""
        y: torch.Tensor = self.fc(self.lstm(x)[0])
        return y


def main() -> None:
    """Measure every size and write the results."""
    rows, document = [], {"environment": environment.describe(), "results": []}
    with tempfile.TemporaryDirectory() as folder:
        for size in SIZES:
            found = _measured(Path(folder), *size)
            document["results"].append(found)
            rows.append(
                [
                    found["name"],
                    f"{found['bytes_ratio']:.3f}",
                    *(f"{found[key]['p50_us']:.1f}" for key in ("float32", "float32 again", "int8")),
                    f"{1 / found['int8']['time_ratio']:.2f}",
                    f"{found['float32 again']['time_ratio']:.3f}",
                    f"{found['state_error'][0]:.1e} → {found['state_error'][1]:.1e}",
                ]
            )
    headings = ["LSTM", "bytes ÷ float32", "float32 µs", "again", "int8 µs", "times faster", "noise", "state error"]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "int8.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    lines = [
        f"{document['environment']['cpu']['model']}, one thread, one step of a stream, batch 1.",
        "",
        *markdown_table(headings, rows),
        "",
        "`noise` is the time of the same float32 file under another name over its own, in the same rounds; the state "
        "error is the largest difference from PyTorch, relative to the state's size, up to step 100 and step 10,000.",
        "",
    ]
    (RESULTS / "int8.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


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
    again = folder / "again.onnx"
    shutil.copy(bundle.path / "model.onnx", again)
    paths = {
        "float32": bundle.path / "model.onnx",
        "float32 again": again,
        "int8": bundle.path / "model.int8.onnx",
    }
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
        **{label: timed[path] for label, path in paths.items()},
    }


if __name__ == "__main__":
    main()
