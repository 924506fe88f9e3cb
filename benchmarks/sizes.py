"""Parity and latency of networks of the usual sizes, and of the five systems, on one execution provider.

`make bench` calls it. Weights are random: latency does not depend on them. For each network the document of
`bench --json` goes to `benchmarks/results/PROVIDER/NAME.json` (without single samples; `lstm-deploy compare` reads it),
and tables of all to `PROVIDER.md`. `--readme` writes the table in the README from the results that are there. On a GPU,
whose time is short, it measures fewer networks and cases; `--resume` leaves out those that were measured there before.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

import lstm_deploy
from lstm_deploy.artifacts import environment
from lstm_deploy.artifacts.report_style import format_value, markdown_table
from lstm_deploy.benchmark import tables
from lstm_deploy.benchmark.statistics import ratio
from lstm_deploy.benchmark.variants import BASELINES
from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.lifting.sources import Origin

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
AUTHORS = ROOT / "tests" / "helpers" / "authors.py"
SIZES = ((1, 64, 1), (65, 128, 2), (40, 256, 3), (64, 512, 2), (80, 480, 3), (80, 320, 6))
"""Inputs, hidden size, layers of LSTMs; of GRUs the first four."""


class System(NamedTuple):
    """A network as somebody wrote it."""

    model: str
    init: dict[str, Any]
    x: str
    steps: int


SYSTEMS = {
    "sine": System("SineLSTM", {}, "x:float32[batch,seq,1]", 20),
    "attention": System(
        "Practitioner",
        {"input_dim": 3, "hidden": 64, "layers": 2, "bidirectional": True, "attention": True},
        "x:float32[batch,seq,3]",
        100,
    ),
    "aaxj": System("Stock", {}, "x:float32[batch,seq,4]", 20),
    "window": System("Window", {}, "x:float32[batch,10]", 10),
    "characters": System("CharLSTM", {}, "x:float32[batch,seq,65]", 100),
}
GRUS = tuple("gru-{}-{}x{}".format(*size) for size in SIZES[:4])
NAMES = (*("{}-{}x{}".format(*size) for size in SIZES), *SYSTEMS, *GRUS)
IN_README = {
    "1-64x1": "LSTM 1-64×1",
    "65-128x2": "LSTM 65-128×2",
    "64-512x2": "LSTM 64-512×2",
    "gru-1-64x1": "GRU 1-64×1",
    "gru-65-128x2": "GRU 65-128×2",
    "gru-64-512x2": "GRU 64-512×2",
}
"""The networks in the README's table, and what they are called there."""
COMPILED = ("1-64x1", "65-128x2")
"""Where `torch.compile` takes part: it needs half a minute for each size of each case."""
COMPARED = (
    "eager",
    "eager-no-onednn",
    "torchscript",
    "compile",
    "stock-onnx",
    "stock-fixed",
    "legacy-onnx",
    "legacy-int8",
    "openvino",
    "openvino-bf16",
)
ON_GPU = ("1-64x1", "65-128x2", "40-256x3", "64-512x2")
"""What is measured on a GPU unless another is named: for more than six minutes there, name them one by one."""
BATCHES_ON_GPU = (1, 256)
BASELINES_ON_GPU = ("eager", "eager-graph", "floor")
BEGIN, END = "<!-- latency: made by benchmarks/sizes.py --readme -->\n", "<!-- latency: end -->\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--provider", default="cpu")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--only", help="one network, by its name")
    parser.add_argument("--readme", action="store_true", help="measure nothing")
    parser.add_argument("--resume", action="store_true", help="leave out what was measured on this machine before")
    parser.add_argument("--short", action="store_true", help="the networks and cases of a GPU, on the CPU too")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder for documents and tables")
    arguments = parser.parse_args()
    provider, results = arguments.provider, arguments.results
    passed = arguments.readme or measure(
        provider,
        arguments.rounds,
        arguments.only,
        results / provider,
        resume=arguments.resume,
        short=arguments.short or provider != "cpu",
    )
    found = read(results / provider)
    tables_of = "cuda-sizes" if provider == "cuda" else provider
    (results / f"{tables_of}.md").write_text(markdown(found), encoding="utf-8")
    if provider == "cpu" and results == RESULTS:
        readme = ROOT / "README.md"
        readme.write_text(with_table(readme.read_text(encoding="utf-8"), found), encoding="utf-8")
    if not passed:
        raise SystemExit(f"Some networks fail parity on {provider}; see {results / tables_of}.md.")


def measure(provider: str, rounds: int, only: str | None, results: Path, *, resume: bool, short: bool) -> bool:
    """Whether everything passed parity."""
    failed = False
    results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in ON_GPU if short and only is None else NAMES:
            file = results / f"{name}.json"
            if only not in (None, name) or (resume and is_of_this_machine(file)):
                continue
            print(f"{name} …", file=sys.stderr)
            origin = origin_of(Path(folder), name)
            more: dict[str, Any] = {"half": True} if provider != "cpu" else {"quantize": "int8", "max_metric_loss": 1.0}
            bundle = lstm_deploy.export(origin, Path(folder, name), **more)
            parity = lstm_deploy.validate(bundle, reference=origin, provider=provider)
            failures = parity.explain_failures()
            failed |= bool(failures)
            plan = lstm_deploy.Plan(
                providers=(provider,),
                batches=BATCHES_ON_GPU if short else lstm_deploy.Plan().batches,
                seq_lens=(SYSTEMS[name].steps if name in SYSTEMS else 100,),
                baselines=BASELINES_ON_GPU
                if short
                else tuple(each for each in BASELINES if each != "compile" or name in COMPILED),
                rounds=rounds,
                unvalidated=True,  # what failed is said in the results
            )
            found = lstm_deploy.bench(bundle, plan, reference=origin, on_progress=_say)
            document = found.without_samples()
            document["parity"] = {"passed": parity.passed, "checks": len(parity.checks), "failures": failures}
            for row in document["results"]:
                row["round_medians_us"] = [float(f"{median:.5g}") for median in row["round_medians_us"]]
            text = json.dumps(document, separators=(",", ":")).replace('{"variant"', '\n{"variant"') + "\n"
            file.write_text(text, encoding="utf-8")
    return not failed


def is_of_this_machine(file: Path) -> bool:
    """Whether a result was measured on this machine, with these versions."""
    if not file.exists():
        return False
    there, here = json.loads(file.read_text(encoding="utf-8"))["environment"], environment.describe()
    return all(there.get(key) == here[key] for key in ("versions", "cpu", "gpu"))


def read(results: Path) -> dict[str, dict[str, Any]]:
    """The results that are there, by name, in the order of `NAMES`."""
    files = {name: results / f"{name}.json" for name in NAMES}
    return {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.exists()}


def with_table(readme: str, found: Mapping[str, Mapping[str, Any]]) -> str:
    """The README with its table made anew."""
    before, rest = readme.split(BEGIN)
    return before + BEGIN + table(found) + END + rest.split(END)[1]


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """One step of a stream of one row: microseconds."""
    shown = {
        "eager": "eager",
        "stock-onnx": "`torch.onnx`",
        "legacy-onnx": "`torch.onnx` legacy",
        "openvino": "OpenVINO",
        "onnx": "**ours**",
        "onnx int8": "**ours, int8**",
    }
    rows = []
    for name, title in IN_README.items():
        step = steps(found[name]) if name in found else {}
        if step:
            rows.append([title, *(format_value(step[each]["p50_us"]) if each in step else "–" for each in shown)])
    return "\n".join(markdown_table(["µs a step", *shown.values()], rows)) + "\n"


def steps(document: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The rows of one step of a stream of one row, from arrays to arrays, by variant."""
    case = ("stream", "end_to_end", 1)
    rows = document["results"]
    return {row["variant"]: row for row in rows if (row["scenario"], row["scope"], row["batch"]) == case}


def markdown(found: Mapping[str, Mapping[str, Any]]) -> str:
    document = next(iter(found.values()))
    lines = [*tables.describe_machine(document["environment"]), "", *tables.notes(document), ""]
    lines += ["## How many times faster a step is", ""]
    lines += [
        "One step of a stream of one row, one thread, from arrays to arrays, state carried: the time of each over that "
        "of `model.onnx` through `Stream.step`, the median over rounds with its 95 % interval.",
        "",
    ]
    rows = []
    for name, document in found.items():
        step = steps(document)
        if "onnx" in step:
            rows.append([name, *(_times(step.get(each), step["onnx"]) for each in COMPARED)])
    lines += markdown_table(["than", *COMPARED], rows)
    lines += ["", "The same for `model.int8.onnx`:", ""]
    rows = []
    for name, document in found.items():
        step = steps(document)
        if "onnx int8" in step:
            rows.append([name, *(_times(step.get(each), step["onnx int8"]) for each in (*COMPARED, "onnx"))])
    lines += markdown_table(["than", *COMPARED, "onnx"], rows)
    for name, document in found.items():
        lines += ["", f"## {name}", "", *markdown_table(*tables.table(document)), ""]
        lines += [*markdown_table(*tables.startup_table(document)), ""]
        lines += [*map(tables.describe_peaks, document["peaks"])]
        parity = document["parity"]
        lines += ["", f"{parity['checks']} checks of parity, {'all' if parity['passed'] else 'NOT all'} passed.", ""]
        lines += [f"- {failure}" for failure in parity["failures"]]
        lines += [f"- left out: {reason}." for reason in document["left_out"]]
    return "\n".join([*lines, ""])


def _times(row: Mapping[str, Any] | None, ours: Mapping[str, Any]) -> str:
    if row is None:
        return "–"
    rounds = [[np.array([median]) for median in each["round_medians_us"]] for each in (row, ours)]
    times, (low, high) = ratio(rounds[0], rounds[1])
    return f"{times:.2f} ({low:.2f}–{high:.2f})"


def origin_of(folder: Path, name: str) -> Origin:
    """A file of random weights, and the description of their network."""
    torch.manual_seed(0)
    if name in SYSTEMS:
        system = SYSTEMS[name]
        sys.path.insert(0, str(AUTHORS.parent))
        import authors

        torch.save(getattr(authors, system.model)(**system.init).state_dict(), folder / f"{name}.pt")
        return Origin(
            path=folder / f"{name}.pt",
            model=f"{AUTHORS}:{system.model}",
            init=system.init,
            inputs=(TensorSpec.parse(system.x),),
        )
    inputs, hidden_size, num_layers = map(int, name.removeprefix("gru-").replace("x", "-").split("-"))
    kind = nn.GRU if name in GRUS else nn.LSTM
    network = nn.ModuleDict(
        {"layers": kind(inputs, hidden_size, num_layers, batch_first=True), "fc": nn.Linear(hidden_size, inputs)}
    )
    save_file(network.state_dict(), folder / f"{name}.safetensors")
    return Origin(path=folder / f"{name}.safetensors")


def _say(done: int, total: int, text: str) -> None:
    if done == total:
        print(f"  {total} rounds, the last of {text}", file=sys.stderr)


if __name__ == "__main__":
    main()
