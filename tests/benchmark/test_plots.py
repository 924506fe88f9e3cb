import itertools

import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_rgba
from plotted import a_case, document, dots, first, legend, row, save, texts, titles

from lstm_deploy.artifacts.plot_style import BLUE, GREY, ORANGE
from lstm_deploy.benchmark import plots

PLOTS = {name: getattr(plots, f"{name}_plot") for name in ("latency", "ratio")}


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


def test_colors_show_precisions_and_hollow_dots_unreliable_rows():
    figure = plots.latency_plot(document())
    points = first(PathCollection, figure.axes[0])
    int8, float32 = to_rgba(ORANGE), to_rgba(BLUE)
    assert [tuple(color) for color in points.get_edgecolors()] == [int8, float32, float32, float32]
    assert [tuple(color) for color in points.get_facecolors()] == [int8, to_rgba("white"), float32, float32]
    assert any(text.startswith("hollow") for text in legend(figure))
    stable = [each for each in a_case() if not each["warnings"]]
    assert not any(text.startswith("hollow") for text in legend(plots.latency_plot(document(*stable))))


@pytest.mark.parametrize(("p50_us", "scale"), [(5.0, "log"), (100.0, "linear")])
def test_an_axis_is_logarithmic_only_where_times_differ_much(p50_us, scale):
    (axes,) = plots.latency_plot(document(row("eager", 200.0), row("onnx", p50_us))).axes
    assert axes.get_xscale() == scale


def test_the_null_model_does_not_squeeze_the_others():
    rows = [row("eager", 20_000.0), row("onnx", 500.0), row("floor", 3.0, error=None, baseline="eager")]
    figure = plots.latency_plot(document(*rows))
    assert figure.axes[0].get_xlim()[0] > 300
    assert plots.BEYOND in legend(figure)
    assert figure.axes[0].texts[0].get_text() == "3 µs"


@pytest.mark.parametrize("name", PLOTS)
def test_scopes_have_panels_of_their_own(name):
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


def test_the_control_is_left_out_of_the_latencies():
    figure = plots.latency_plot(document(*a_case(), *a_case(batch=8)))
    shown = [text for axes in figure.axes for text in [*texts(axes), *(t.get_text() for t in axes.texts)]]
    assert "eager again" not in shown + legend(figure)


def test_ratios_have_intervals_and_the_noise_is_a_band():
    (axes,) = plots.ratio_plot(document()).axes
    assert texts(axes) == ["onnx int8", "onnx", "torchscript", "eager again"]
    assert dots(axes)[:, 0].tolist() == [0.05, 0.1, 0.75, 1.03]
    assert first(LineCollection, axes).get_segments()[1][:, 0].tolist() == pytest.approx([0.095, 0.105])
    (band,) = axes.patches
    assert (band.get_x(), band.get_x() + band.get_width()) == pytest.approx((0.93, 1.07))
    assert axes.get_xscale() == "log"


def test_no_difference_is_grey():
    (axes,) = plots.ratio_plot(document()).axes
    colors = first(PathCollection, axes).get_facecolors()
    assert [tuple(color) == to_rgba(GREY) for color in colors] == [False, False, False, True]


def test_ratios_to_several_baselines_have_panels_of_their_own():
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


def test_without_a_baseline_there_are_no_ratios():
    nothing = {"baseline": None, "ratio_to_baseline": None, "ratio_interval": None, "noise_floor": None, "error": None}
    rows = [{**each, **nothing, "verdict": None} for each in a_case() if not each["again"]]
    assert list(plots.plots(document(*rows))) == ["latency"]


def test_unknown_values_are_left_out(tmp_path):
    unknown = dict.fromkeys(["p99_us", "error", "noise_floor", "operations", "bytes", "verdict"])
    made = plots.plots(document(*a_case(**unknown)))
    assert list(made) == ["latency", "ratio"]
    for name in ("latency", "ratio"):
        save(made[name], tmp_path)
    assert not made["ratio"].axes[0].patches
    assert not [line for line in made["latency"].axes[0].lines if line.get_marker() == "|"]


def test_names_are_not_read_as_formulas_and_are_kept_whole(tmp_path):
    rows = [row(name, 10.0 + number) for number, name in enumerate(["_a: $x_1", "eager", "b$"])]
    made = plots.plots(document(*rows, *({**each, "batch": 2} for each in rows)))
    assert list(made) == list(PLOTS)
    for figure in made.values():
        save(figure, tmp_path)
