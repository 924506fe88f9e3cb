"""What training costs and reaches: the recipes of docs/recipes.md, and our loop beside a bare one.

`make bench-training` writes results/training.md and training.json; half an hour on two quiet cores. The real files are
looked for in `--data`, by default ../shared/data; what needs one that is not there is left out.
"""

import argparse
import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from lstm_deploy.artifacts.report_style import format_value, markdown_table
from lstm_deploy.training import training_data
from lstm_deploy.training.batches import WHOLE
from lstm_deploy.training.loop import fit
from lstm_deploy.training.pipeline import make_learning_task
from lstm_deploy.training.recipe import make_recipe

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
ROUNDS = 5


def commands() -> list[list[str]]:
    """The commands of the recipes."""
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    block = re.search(r"```sh\n(.*?)```", page, re.DOTALL)
    assert block is not None
    return [shlex.split(line)[1:] for line in block[1].replace("\\\n", " ").splitlines() if line]


def run(words: list[str], folder: Path) -> dict:
    """One command in a process of its own: seconds, peak memory, and what it reports."""
    out, peak = folder / "out.json", 0
    began = time.perf_counter()
    with out.open("w") as file:
        child = subprocess.Popen([sys.executable, "-m", "lstm_deploy", *words, "--json"], stdout=file)
        # Not from its resource usage, which begins with the memory of the process that started it.
        status = Path(f"/proc/{child.pid}/status")
        while child.poll() is None:
            if told := re.search(r"VmHWM:\s*(\d+) kB", status.read_text() if status.exists() else ""):
                peak = max(peak, int(told[1]))
            time.sleep(0.1)
    if child.returncode:
        raise SystemExit(f"{shlex.join(words)} failed")
    found = json.loads(out.read_text(encoding="utf-8"))
    return {
        "command": shlex.join(["lstm-deploy", *words]),
        "seconds": time.perf_counter() - began,
        "peak_mb": peak / 1024,
        "epochs": found["epochs"],
        "metrics": found["metrics"],
    }


def bare(given, recipe) -> float:
    """Seconds of one epoch of a plain loop over the same batches, validation included: the median."""
    torch.manual_seed(recipe.seed)
    task = make_learning_task(given, recipe)
    network, weights = task.network, [each for each in task.network.parameters() if each.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=recipe.learning_rate)
    times = []
    for _ in range(recipe.epochs):
        began = time.perf_counter()
        network.train()
        state = None
        for batch in task.batches("fit", WHOLE):
            output, (h, c) = network(*batch.inputs, state=state)
            state = (h.detach(), c.detach()) if task.state_policy == "carry" else None
            loss = task.loss(output, batch.targets)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(weights, recipe.clip)
            optimizer.step()
        network.eval()
        state = None
        with torch.no_grad():
            for batch in task.batches("validation", WHOLE):
                output, state = network(*batch.inputs, state=state)
                state = state if task.state_policy == "carry" else None
                task.loss(output, batch.targets).item()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def ours(given, recipe, folder: Path) -> float:
    """The same of `fit`, with everything that it writes."""
    torch.manual_seed(recipe.seed)
    ends = []
    task = make_learning_task(given, recipe)
    fit(task, recipe, lambda *_: None, folder=folder, on_epoch=lambda *_: ends.append(time.perf_counter()))
    return statistics.median(end - begin for begin, end in pairwise(ends))


def overhead(folder: Path) -> list[dict]:
    """Ratios of our epochs to those of a bare loop, in turn, the bare one twice."""
    sines = training_data.generate_series("sines", None, 0)
    text = "".join(chr(97 + (n * n + n // 7) % 23) for n in range(200_000))
    cases = {
        "1-64x1, windows of 20, 32 a batch": (
            training_data.generate_series("sine", None, 0),
            make_recipe("forecast", hidden_size=64, num_layers=1, batch_size=32, epochs=12, residual=False),
        ),
        "1-200x2, windows of 10, 64 a batch": (
            sines,
            make_recipe("forecast", hidden_size=200, window=10, epochs=3, residual=False),
        ),
        "23-128x2, 32 streams of 100": (
            training_data.TrainingData(content=text),
            make_recipe("lm", epochs=3, schedule="constant"),
        ),
    }
    found = []
    for name, (given, recipe) in cases.items():
        ratios, noise, seconds = [], [], []
        for _ in range(ROUNDS):
            first = bare(given, recipe)
            ratios.append(ours(given, recipe, folder) / first)
            noise.append(bare(given, recipe) / first)
            seconds.append(first)
        found.append(
            {
                "case": name,
                "bare_s": statistics.median(seconds),
                "ratio": statistics.median(ratios),
                "ratios": sorted(ratios),
                "bare_again": sorted(noise),
            }
        )
        print(found[-1], flush=True)
    return found


def markdown(found: dict) -> str:
    """Both tables."""
    rows = []
    for each in found["systems"]:
        metrics = {name: value for name, value in each["metrics"].items() if isinstance(value, float)}
        told = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in metrics.items())
        rows.append([f"`{each['command']}`", f"{each['seconds']:.0f}", f"{each['peak_mb']:,.0f}", told])
    loops = [
        [
            each["case"],
            format_value(1000 * each["bare_s"]),
            f"{each['ratio']:.2f} ({each['ratios'][0]:.2f}–{each['ratios'][-1]:.2f})",
            f"{each['bare_again'][0]:.2f}–{each['bare_again'][-1]:.2f}",
        ]
        for each in found["overhead"]
    ]
    lines = ["# Training", "", f"Made by `make bench-training` on {found['machine']}.", "", "## The five systems", ""]
    lines += markdown_table(["command", "s", "MB at most", "on held-out data"], rows)
    lines += ["", "## One epoch beside a bare loop", ""]
    lines += [
        "The same batches, the same network, validation included; `train` also writes its log and its state, checks "
        "each loss and shows progress. Medians and ranges of ratios in one run, in turn; the bare loop twice.",
        "",
    ]
    lines += markdown_table(["LSTM, batches", "bare, ms an epoch", "train ÷ bare", "bare again ÷ bare"], loops)
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the real files")
    given = parser.parse_args()
    found = {"machine": f"{os.cpu_count()} cores, {platform.machine()}, PyTorch {torch.__version__}"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "fit").mkdir()
        found["overhead"] = overhead(folder / "fit")
        for file in given.data.resolve().iterdir():
            (folder / file.name).symlink_to(file)
        os.chdir(folder)
        found["systems"] = []
        for words in commands():
            file = words[1]
            if not file.startswith("-") and not Path(file).exists():
                print(f"left out: {file} is not in {given.data}", flush=True)
                continue
            found["systems"].append(run(words, folder))
            print(found["systems"][-1], flush=True)
    (RESULTS / "training.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "training.md").write_text(markdown(found), encoding="utf-8")


if __name__ == "__main__":
    main()
