"""Whether the benchmark can be believed; `make bench-method` calls it.

The same file under two names must show no difference, one that is 10 % slower on purpose must show that it is, three
runs must rank alike, and `compare` must tell the one from the other, too. Results go to `benchmarks/results/method.md`.
"""

import shutil
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper
from rounds import write
from sizes import origin_of

import lstm_deploy
from lstm_deploy.benchmark.comparison import compare

SIZE = "65-128x2"
SLOWER = 0.10
RUNS = 20
STREAM: dict[str, Any] = {
    "scenarios": ("stream",),
    "scopes": ("end_to_end",),
    "batches": (1,),
    "roofline": False,
    "unvalidated": True,
}


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = lstm_deploy.export(origin_of(folder, SIZE), folder / SIZE, formats=["onnx"])
        same, slow = folder / "same", folder / "slow"
        for copy in (same, slow):
            shutil.copytree(bundle.path, copy)
        nodes = slow_down(slow / "model.onnx", SLOWER)
        found = {
            "same": [beside(bundle.path, same, seed) for seed in range(RUNS)],
            "slower": [beside(bundle.path, slow, seed) for seed in range(RUNS)],
            "runs": [ranks(bundle.path) for _ in range(3)],
            "compared": [against(bundle.path, path) for path in (bundle.path, slow) for _ in range(3)],
        }
    report(found, nodes)
    wrong = [each["verdict"] for each in found["same"]].count("no difference") < RUNS - 1
    wrong |= any(each["verdict"] != "slower" for each in found["slower"])
    wrong |= any((each["verdict"] == "slower") != (each["new"] == "slow") for each in found["compared"])
    if wrong:
        raise SystemExit("The benchmark said what is not so; see benchmarks/results/method.md.")


def slow_down(path: Path, part: float) -> int:
    """Let a model do so much more than it needs, by nodes that change nothing; how many."""
    model = onnx.load(path)
    original = session_of(path.read_bytes())
    y = model.graph.output[0].name
    for node in model.graph.node:
        for index, name in enumerate(node.output):
            if name == y:
                node.output[index] = "y0"
    nodes = 0
    while not nodes or times(session_of(model.SerializeToString()), original) < 1 + part:
        if nodes:
            model.graph.node[-1].output[0] = f"y{nodes}"
        for _ in range(2):  # twice the opposite
            model.graph.node.append(helper.make_node("Neg", [f"y{nodes}"], [f"y{nodes + 1}"]))
            nodes += 1
        model.graph.node[-1].output[0] = y
    onnx.save(model, path)
    return nodes


def session_of(model: bytes) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def times(one: Any, other: Any) -> float:
    """How many times longer a call of one session takes than one of the other, side by side."""
    sizes = {"batch": 1, "seq": 1}
    feeds = {i.name: np.zeros([sizes.get(dim, dim) for dim in i.shape], np.float32) for i in one.get_inputs()}
    found = []
    for _ in range(300):
        taken = []
        for session in (one, other):
            start = time.perf_counter_ns()
            for _ in range(30):
                session.run(None, feeds)
            taken.append(time.perf_counter_ns() - start)
        found.append(taken[0] / taken[1])
    return float(np.median(found))


def beside(one: Path, other: Path, seed: int) -> dict[str, Any]:
    """Two files in one run: what is said of the second."""
    plan = lstm_deploy.Plan(**STREAM, baselines=(), seed=seed)
    shutil.copy(other / "model.onnx", other / "other.onnx")
    rows = lstm_deploy.bench([one / "model.onnx", other / "other.onnx"], plan)["results"]
    (row,) = (row for row in rows if row["artifact"] == "other.onnx")
    return {name: row[name] for name in ("ratio_to_baseline", "ratio_interval", "noise_floor", "verdict")}


def ranks(path: Path) -> dict[str, Any]:
    """One whole run."""
    baselines = ("eager", "eager-no-onednn", "stock-onnx", "stock-fixed", "legacy-onnx", "openvino", "floor")
    rows = lstm_deploy.bench([path], lstm_deploy.Plan(**STREAM, baselines=baselines))["results"]
    return {row["variant"]: (row["ratio_to_baseline"], row["ratio_interval"]) for row in rows if not row["again"]}


def against(old: Path, new: Path) -> dict[str, Any]:
    """Two runs, one after the other."""
    documents = [lstm_deploy.bench([path], lstm_deploy.Plan(**STREAM, baselines=("eager",))) for path in (old, new)]
    (change,) = compare(*documents).changes
    return {"new": new.name, "times": change.times, "probability": change.probability, "verdict": change.verdict}


def report(found: dict[str, Any], nodes: int) -> None:
    rows = []
    for name in ("same", "slower"):
        verdicts = [each["verdict"] for each in found[name]]
        ratios = [each["ratio_to_baseline"] for each in found[name]]
        widths = [each["ratio_interval"][1] - each["ratio_interval"][0] for each in found[name]]
        said = ", ".join(f"{verdicts.count(each)} × {each}" for each in dict.fromkeys(verdicts))
        rows.append([name, said, f"{min(ratios):.3f} to {max(ratios):.3f}", f"{np.median(widths):.3f}"])
    runs = found["runs"]
    orders = [sorted(run, key=lambda name: run[name][0]) for run in runs]
    apart = [
        name
        for name in runs[0]
        for one, two in pairwise([*runs, runs[0]])
        if max(one[name][1][0], two[name][1][0]) > min(one[name][1][1], two[name][1][1])
    ]
    lines = [
        f"LSTM {SIZE}, one step of a stream, {RUNS} runs each: the file beside itself, and beside one with {nodes} "
        f"more nodes, so that a plain call takes {SLOWER:.0%} longer or a little more.",
        "",
        "Three runs of all variants, fastest first:",
        "",
        *(
            f"- {', '.join(f'{name} {run[name][0]:.3f}' for name in order)}"
            for order, run in zip(orders, runs, strict=True)
        ),
        "",
        f"Intervals that do not overlap: {', '.join(dict.fromkeys(apart)) or 'none'}.",
        "",
        "`lstm-deploy compare` of two runs, one after the other:",
        "",
        *(
            f"- {'the same file' if each['new'] == SIZE else 'the slower one'}: {each['times']:.3f} times "
            f"(chance {each['probability']:.2g}): {each['verdict']}"
            for each in found["compared"]
        ),
    ]
    write("method", found, ["beside itself", "verdicts", "ratio", "width of the interval"], rows, "\n".join(lines))


if __name__ == "__main__":
    main()
