"""Results of `bench` for plots, made up, and what a plot shows."""

import numpy as np
from matplotlib.collections import PathCollection
from matplotlib.text import Text

PEAKS = {
    "provider": "cpu",
    "threads": 1,
    "operations_per_s": {"float32": 1e11, "int8": 4e11},
    "caches": [["L1", 32768], ["L2", 1 << 20]],
    "memory": [
        {"name": "L1", "working_set": 1 << 14, "bytes_per_s": 2e11},
        {"name": "L2", "working_set": 1 << 16, "bytes_per_s": 5e10},
        {"name": "L2", "working_set": 1 << 18, "bytes_per_s": 8e10},
    ],
}


def row(variant, p50_us, **changes):
    ratio = p50_us / 200
    defaults = {
        "variant": variant,
        "group": "",
        "kind": variant.split()[-1],
        "artifact": f"{variant}.file",
        "provider": "cpu",
        "precision": "float32",
        "again": False,
        "scenario": "stream",
        "scope": "end_to_end",
        "batch": 1,
        "seq_len": 1,
        "threads": 1,
        "p50_us": p50_us,
        "p90_us": 1.5 * p50_us,
        "p99_us": 3 * p50_us,
        "baseline": "eager",
        "ratio_to_baseline": ratio,
        "ratio_interval": [0.95 * ratio, 1.05 * ratio],
        "noise_floor": 0.07,
        "verdict": "faster" if ratio < 0.9 else "no difference",
        "error": 3e-7,
        "samples_us": [[p50_us * (1 + 0.01 * step) for step in range(50)], [2 * p50_us] * 5],
        "operations": 4000.0,
        "bytes": 8000.0,
        "warnings": [],
    }
    return {**defaults, **changes}


def a_case(**changes):
    """A baseline, its A/A control and three others in one case, unsorted."""
    rows = [
        row("eager", 200.0, error=0.0, ratio_interval=[1.0, 1.0]),
        row("onnx", 20.0, warnings=["The median is known only roughly."]),
        row("onnx int8", 10.0, precision="int8", error=2e-3, bytes=2000.0),
        row("torchscript", 150.0, error=0.0),
        row("eager again", 206.0, again=True, error=0.0),
    ]
    return [{**each, **changes} for each in rows]


def document(*rows, peaks=(PEAKS,)):
    return {"results": list(rows or a_case()), "peaks": list(peaks)}


def texts(axes):
    return [label.get_text() for label in axes.get_yticklabels()]


def first(kind, axes):
    return next(each for each in axes.collections if isinstance(each, kind))


def dots(axes):
    """Where the dots of rows or points are."""
    return np.asarray(first(PathCollection, axes).get_offsets())


def titles(figure):
    return [axes.get_title(loc="left") for axes in figure.axes]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def save(figure, tmp_path):
    figure.savefig(tmp_path / "plot.png", dpi=30)


def boxes_of(axes):
    axes.figure.draw_without_rendering()
    return [Text.get_window_extent(text) for text in axes.texts]  # without the line to the point
