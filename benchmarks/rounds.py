"""Timing calls side by side: each round times all of them, in a random order."""

import json
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lstm_deploy.artifacts import environment
from lstm_deploy.artifacts.report_style import markdown_table
from lstm_deploy.benchmark.statistics import Samples, median_of_medians, ratio

RESULTS = Path(__file__).parent / "results"
Timed = Callable[[int], object]
"""Makes so many steps."""


def measure(calls: Mapping[str, Timed], steps: int, rounds: int, baseline: str) -> dict[str, dict[str, Any]]:
    """Microseconds a step of each call, and its ratio to the baseline's within rounds, with a 95 % interval."""
    samples: dict[str, list[Samples]] = {name: [] for name in calls}
    order = list(calls)
    for call in calls.values():
        call(steps)  # to be warm
    rng = random.Random(0)
    for _ in range(rounds):
        rng.shuffle(order)
        for name in order:
            start = time.perf_counter()
            calls[name](steps)
            samples[name].append(np.array([(time.perf_counter() - start) / steps * 1e6]))
    found = {}
    for name, timed in samples.items():
        value, interval = ratio(timed, samples[baseline])
        found[name] = {"us": median_of_medians(timed), "ratio": value, "interval": interval}
    return found


def write(name: str, document: dict[str, Any], headings: list[str], rows: list[list[str]], notes: str) -> None:
    """The results as JSON and as a table, beside the others."""
    described = environment.describe()
    lines = [
        f"{described['cpu']['model']}, one thread.",
        "",
        *markdown_table(headings, rows),
        "",
        notes,
        "",
    ]
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"environment": described, **document}, indent=1) + "\n"
    (RESULTS / f"{name}.json").write_text(text, encoding="utf-8")
    (RESULTS / f"{name}.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


def ratio_text(found: Mapping[str, Any]) -> str:
    low, high = found["interval"]
    return f"{found['ratio']:.2f} ({low:.2f}–{high:.2f})"
