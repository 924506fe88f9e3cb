"""Parity and latency of networks of the usual sizes, on one execution provider; `make bench` calls it.

Weights are random: latency does not depend on them. Results go to `benchmarks/results/PROVIDER.json` and, as a
table, to `PROVIDER.md`.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

import lstm_deploy
from lstm_deploy import report
from lstm_deploy.checkpoint import ForecasterConfig, Spec, save
from lstm_deploy.models import build
from lstm_deploy.tasks import Forecast

SIZES = ((1, 64, 1), (65, 128, 2), (40, 256, 3), (64, 512, 2))
"""Inputs, hidden size, layers."""
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--provider", default="cpu")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    plan = lstm_deploy.Plan(providers=(arguments.provider,), rounds=arguments.rounds)
    documents: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for size in SIZES:
            name = "{}-{}x{}".format(*size)
            print(f"{name} …", file=sys.stderr)
            bundle = _bundle(Path(folder), name, *size)
            parity = lstm_deploy.validate(bundle, provider=arguments.provider)
            if not parity.passed:
                raise SystemExit(f"{name} fails parity on {arguments.provider}: {parity.failures[0]}")
            documents[name] = lstm_deploy.bench([bundle.path], plan)
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(documents, indent=1) + "\n"
    (RESULTS / f"{arguments.provider}.json").write_text(text, encoding="utf-8")
    (RESULTS / f"{arguments.provider}.md").write_text(_markdown(documents), encoding="utf-8")


def _bundle(folder: Path, name: str, input_size: int, hidden_size: int, num_layers: int) -> lstm_deploy.Bundle:
    torch.manual_seed(0)
    config = ForecasterConfig(
        input_size=input_size,
        output_columns=(0,),
        hidden_size=hidden_size,
        num_layers=num_layers,
        residual=False,
    )
    tensors = {key: value.numpy() for key, value in build(config).state_dict().items()}
    features = tuple(f"x{index}" for index in range(input_size))
    spec = Spec(
        network=config,
        task=Forecast(features=features, targets=features[:1], window=20),
        state_policy="reset",
        training={},
        low=(-1.0,) * input_size,
        high=(1.0,) * input_size,
    )
    save(folder / f"{name}.safetensors", tensors, spec)
    return lstm_deploy.export(folder / f"{name}.safetensors", folder / name)


def _markdown(documents: dict[str, Any]) -> str:
    first = next(iter(documents.values()))["environment"]
    versions = ", ".join(f"{name} {number}" for name, number in first["versions"].items())
    machine = ", ".join([first["cpu"]["model"], *first["gpu"]])
    lines = [f"{machine}; {versions}.", "", report.RATIO_NOTE]
    for name, document in documents.items():
        headings, rows = report.bench_table(document["results"])
        lines += ["", f"## LSTM {name}", "", *report.markdown_table(headings, rows)]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
