import itertools

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_rgba
from matplotlib.text import Text

from lstm_deploy.benchmark import plots

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

PLOTS = {
    name: getattr(plots, f"{name}_plot")
    for name in ("latency", "distribution", "ratio", "scaling", "roofline", "precision")
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
    """A baseline, its twin and three others in one case, in no order."""
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


def test_dots_are_the_medians_fastest_first():
    (axes,) = plots.latency_plot(document()).axes
    assert texts(axes) == ["onnx int8", "onnx", "torchscript", "eager"]
    assert dots(axes).tolist() == [[10, 0], [20, 1], [150, 2], [200, 3]]
    assert [text.get_text() for text in axes.texts] == ["10 µs", "20 µs", "150 µs", "200 µs"]


def test_lines_go_on_to_the_90th_and_99th_percentile():
    (axes,) = plots.latency_plot(document(row("eager", 200.0), row("onnx", 100.0, p99_us=None))).axes
    to_p90 = first(LineCollection, axes).get_segments()
    assert [segment[:, 0].tolist() for segment in to_p90] == [[100, 150], [200, 300]]
    (to_p99,) = [line for line in axes.lines if line.get_marker() == "|"]
    assert list(to_p99.get_xdata()) == [300, 600]


def test_the_baseline_is_bold_and_its_median_a_line():
    (axes,) = plots.latency_plot(document()).axes
    bold = [label.get_text() for label in axes.get_yticklabels() if label.get_fontweight() == "bold"]
    assert bold == ["eager"]
    assert [line.get_xdata() for line in axes.lines if line.get_linestyle() == "--"] == [[200.0, 200.0]]


def test_colors_tell_precisions_and_hollow_dots_what_is_not_to_be_trusted():
    figure = plots.latency_plot(document())
    points = first(PathCollection, figure.axes[0])
    int8, float32 = to_rgba(plots.ORANGE), to_rgba(plots.BLUE)
    assert [tuple(color) for color in points.get_edgecolors()] == [int8, float32, float32, float32]
    assert [tuple(color) for color in points.get_facecolors()] == [int8, to_rgba("white"), float32, float32]
    assert any(text.startswith("hollow") for text in legend(figure))
    stable = [each for each in a_case() if not each["warnings"]]
    assert not any(text.startswith("hollow") for text in legend(plots.latency_plot(document(*stable))))


@pytest.mark.parametrize(("p50_us", "scale"), [(5.0, "log"), (100.0, "linear")])
def test_an_axis_is_logarithmic_only_where_times_differ_much(p50_us, scale):
    (axes,) = plots.latency_plot(document(row("eager", 200.0), row("onnx", p50_us))).axes
    assert axes.get_xscale() == scale


def test_what_does_nothing_does_not_squeeze_the_others():
    rows = [row("eager", 20_000.0), row("onnx", 500.0), row("floor", 3.0, error=None, baseline="eager")]
    figure = plots.latency_plot(document(*rows))
    assert figure.axes[0].get_xlim()[0] > 300
    assert plots.BEYOND in legend(figure)
    assert figure.axes[0].texts[0].get_text() == "3 µs"


@pytest.mark.parametrize("name", ["latency", "distribution", "ratio", "roofline", "precision"])
def test_scopes_stand_in_panels_of_their_own(name):
    made = PLOTS[name](document(*a_case(), *a_case(scope="resident")))
    assert len(made.axes) == 2
    assert "end to end" in titles(made)[0]
    assert "resident" in titles(made)[1]


def test_each_size_and_number_of_threads_has_a_panel_with_batches_side_by_side():
    sizes = itertools.product((1, 2), (10, 100), (1, 8, 32))
    rows = [
        each
        for threads, steps, batch in sizes
        for each in a_case(scenario="sequence", threads=threads, seq_len=steps, batch=batch)
    ]
    figure = plots.latency_plot(document(*rows))
    assert len(figure.axes) == 12
    assert [title.split("\n")[1] for title in titles(figure)[:3]] == [
        "batch 1, 10 steps, 1 thread",
        "batch 8, 10 steps, 1 thread",
        "batch 32, 10 steps, 1 thread",
    ]
    assert {axes.get_subplotspec().get_gridspec().ncols for axes in figure.axes} == {3}


@pytest.mark.parametrize("name", ["latency", "distribution", "scaling", "roofline", "precision"])
def test_the_baselines_second_timing_is_left_out(name):
    figure = PLOTS[name](document(*a_case(), *a_case(batch=8)))
    shown = [text for axes in figure.axes for text in [*texts(axes), *(t.get_text() for t in axes.texts)]]
    assert "eager again" not in shown + legend(figure)


def test_percentiles_are_read_off_the_distribution():
    samples = np.random.default_rng(0).gamma(3, 10, (10, 500))
    figure = plots.distribution_plot(document(row("onnx", 30.0, samples_us=samples.tolist())))
    (axes,) = figure.axes
    times, shares = axes.lines[0].get_data()
    for share in (0.5, 0.1, 0.01):
        read = np.interp(share, shares[::-1], times[::-1])
        assert read == pytest.approx(np.percentile(samples, 100 * (1 - share)), rel=0.02)
    assert (shares[0], shares[-1]) == (1, 1 / 5000)
    assert times[-1] == samples.max()
    assert texts(axes) == ["all", "p50", "p90", "p99", "p99.9"]


@pytest.mark.parametrize("without", [None, [], "missing"])
def test_without_samples_there_is_no_distribution(without):
    rows = [{**each, "samples_us": without} for each in a_case()]
    if without == "missing":
        for each in rows:
            del each["samples_us"]
    assert plots.distribution_plot(document(*rows)) is None


def test_ratios_have_their_intervals_and_the_noise_as_a_band():
    (axes,) = plots.ratio_plot(document()).axes
    assert texts(axes) == ["onnx int8", "onnx", "torchscript", "eager again"]
    assert dots(axes)[:, 0].tolist() == [0.05, 0.1, 0.75, 1.03]
    assert first(LineCollection, axes).get_segments()[1][:, 0].tolist() == pytest.approx([0.095, 0.105])
    (band,) = axes.patches
    assert (band.get_x(), band.get_x() + band.get_width()) == pytest.approx((0.93, 1.07))
    assert axes.get_xscale() == "log"


def test_what_is_no_difference_is_grey():
    (axes,) = plots.ratio_plot(document()).axes
    colors = first(PathCollection, axes).get_facecolors()
    assert [tuple(color) == to_rgba(plots.GREY) for color in colors] == [False, False, False, True]


def test_ratios_to_several_baselines_stand_apart():
    other = [
        {
            **each,
            "variant": f"b: {each['variant']} cuda",
            "group": "b",
            "provider": "cuda",
            "baseline": "b: eager cuda",
            "noise_floor": 0.2,
        }
        for each in a_case()
    ]
    figure = plots.ratio_plot(document(*a_case(), *other))
    assert [title.split("\n")[0].split(", ")[-1] for title in titles(figure)] == ["÷ eager", "÷ b: eager cuda"]
    assert texts(figure.axes[1])[0] == "onnx int8"
    assert [axes.patches[0].get_width() for axes in figure.axes] == pytest.approx([0.14, 0.4])


def test_without_a_baseline_there_are_no_ratios_and_errors():
    nothing = {"baseline": None, "ratio_to_baseline": None, "ratio_interval": None, "noise_floor": None, "error": None}
    rows = [{**each, **nothing, "verdict": None} for each in a_case() if not each["again"]]
    assert list(plots.plots(document(*rows))) == ["latency", "distribution", "roofline"]


def test_scaling_is_the_time_of_one_step_of_one_row():
    rows = [
        row("onnx", 10.0 * batch * steps / 2**index, scenario="sequence", batch=batch, seq_len=steps)
        for steps in (10, 100)
        for index, batch in enumerate((1, 8, 32))
    ]
    figure = plots.scaling_plot(document(*rows))
    against = {axes.get_title(loc="left").split("\n")[1]: axes for axes in figure.axes}
    assert list(against) == ["10 steps, 1 thread", "100 steps, 1 thread", "batch 1, 1 thread", "batch 32, 1 thread"]
    (line,) = against["100 steps, 1 thread"].lines
    assert np.transpose(line.get_data()).tolist() == [[1, 10], [8, 5], [32, 2.5]]
    (line,) = against["batch 32, 1 thread"].lines
    assert np.transpose(line.get_data()).tolist() == [[10, 2.5], [100, 2.5]]


def test_scaling_needs_two_sizes():
    assert plots.scaling_plot(document(*a_case(), *a_case(scope="resident"))) is None
    assert plots.scaling_plot(document(*a_case(), *a_case(batch=2))) is not None


def test_the_roofline_has_each_level_once_at_its_fastest():
    figure = plots.roofline_plot(document())
    (axes,) = figure.axes
    said = [text.get_text() for text in axes.texts]
    assert said == ["int8: 400 Gop/s", "float32: 100 Gop/s", "L1: 200 GB/s", "L2: 80 GB/s"]
    slopes = sorted(ys[0] / xs[0] for xs, ys in (line.get_data() for line in axes.lines) if 0 < ys[0] < ys[-1])
    assert slopes == pytest.approx([8e10, 2e11])
    points = [line.get_data() for line in axes.lines if len(line.get_xdata()) == 1]
    assert ([0.5], [4000.0 / 20e-6]) in [(list(x), pytest.approx(list(y))) for x, y in points]
    assert len(points) == 4
    assert all(box.height and axes.get_window_extent().overlaps(box) for box in boxes_of(axes))


def test_ceilings_that_nearly_agree_keep_their_labels_apart():
    memory = [{"name": name, "working_set": 1, "bytes_per_s": rate} for name, rate in (("L1", 1.1e11), ("L2", 1e11))]
    peaks = {**PEAKS, "operations_per_s": {"float32": 1e11, "int8": 1.1e11}, "memory": memory}
    figure = plots.roofline_plot(document(peaks=[peaks]))
    levels = boxes_of(figure.axes[0])[:2]
    assert not levels[0].overlaps(levels[1])


def test_without_peaks_there_is_no_roofline():
    assert plots.roofline_plot(document(peaks=[])) is None
    assert plots.roofline_plot(document(peaks=[{**PEAKS, "threads": 4}])) is None


def test_an_error_of_nothing_is_drawn_below_all_others():
    (axes,) = plots.precision_plot(document()).axes
    points = dots(axes)
    assert points[:, 0].tolist() == [200, 20, 10, 150]
    assert points[[1, 2], 1].tolist() == [3e-7, 2e-3]
    low, high = axes.get_ylim()
    assert (points[:, 1] > low).all()
    assert (points[:, 1] < high).all()
    assert points[0, 1] == points[3, 1] < 1e-7
    assert texts(axes)[0] == "0 (equal)"
    assert axes.get_yticks()[0] == points[0, 1]


def test_errors_are_shown_at_the_smallest_size_of_each_scenario():
    rows = [*a_case(batch=8), *a_case(batch=2), *a_case(scenario="sequence", seq_len=100)]
    figure = plots.precision_plot(document(*rows))
    assert titles(figure) == [
        "stream, end to end, against eager\nbatch 2, 1 step, 1 thread",
        "sequence, end to end, against eager\nbatch 1, 100 steps, 1 thread",
    ]


def test_labels_of_points_cover_neither_each_other_nor_the_edge():
    crowd = [row(f"a variant {number}", 20 + 0.2 * number, error=0.0) for number in range(12)]
    figure = plots.precision_plot(document(row("eager", 200.0, error=0.0), *crowd))
    (axes,) = figure.axes
    boxes = boxes_of(axes)
    assert len(boxes) == 13
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    inside = axes.get_window_extent()
    assert all(inside.x0 < box.x0 and box.x1 < inside.x1 and inside.y0 < box.y0 and box.y1 < inside.y1 for box in boxes)


def test_what_is_not_known_is_left_out(tmp_path):
    unknown = dict.fromkeys(["p99_us", "error", "noise_floor", "operations", "bytes", "verdict"])
    made = plots.plots(document(*a_case(**unknown)))
    assert list(made) == ["latency", "distribution", "ratio"]
    for name in ("latency", "ratio"):
        save(made[name], tmp_path)
    assert not made["ratio"].axes[0].patches
    assert not [line for line in made["latency"].axes[0].lines if line.get_marker() == "|"]


def test_names_are_no_formulas_and_are_kept_whole(tmp_path):
    rows = [row(name, 10.0 + number) for number, name in enumerate(["_a: $x_1", "eager", "b$"])]
    made = plots.plots(document(*rows, *({**each, "batch": 2} for each in rows)))
    assert list(made) == list(PLOTS)
    for figure in made.values():
        save(figure, tmp_path)
    assert legend(made["scaling"]) == [" _a: $x_1", "eager", "b$"]


@pytest.mark.parametrize(("us", "said"), [(0.05, "50 ns"), (999.6, "1 ms"), (12.34, "12.3 µs"), (2.5e6, "2.5 s")])
def test_times_have_units_that_leave_few_digits(us, said):
    assert plots._time(us) == said
