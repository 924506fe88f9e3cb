import itertools

import pytest
from plotted import PEAKS, a_case, boxes_of, document, dots, row, texts, titles

from lstm_deploy.benchmark.scatter_plots import precision_plot, roofline_plot


def test_the_roofline_has_each_level_once_at_its_fastest():
    figure = roofline_plot(document())
    (axes,) = figure.axes
    labels = [text.get_text() for text in axes.texts]
    assert labels == ["int8: 400 Gop/s", "float32: 100 Gop/s", "L1: 200 GB/s", "L2: 80 GB/s"]
    slopes = sorted(ys[0] / xs[0] for xs, ys in (line.get_data() for line in axes.lines) if 0 < ys[0] < ys[-1])
    assert slopes == pytest.approx([8e10, 2e11])
    points = [line.get_data() for line in axes.lines if len(line.get_xdata()) == 1]
    assert ([0.5], [4000.0 / 20e-6]) in [(list(x), pytest.approx(list(y))) for x, y in points]
    assert len(points) == 4
    assert all(box.height and axes.get_window_extent().overlaps(box) for box in boxes_of(axes))


def test_labels_of_close_ceilings_do_not_overlap():
    memory = [{"name": name, "working_set": 1, "bytes_per_s": rate} for name, rate in (("L1", 1.1e11), ("L2", 1e11))]
    peaks = {**PEAKS, "operations_per_s": {"float32": 1e11, "int8": 1.1e11}, "memory": memory}
    figure = roofline_plot(document(peaks=[peaks]))
    levels = boxes_of(figure.axes[0])[:2]
    assert not levels[0].overlaps(levels[1])


def test_without_peaks_there_is_no_roofline():
    assert roofline_plot(document(peaks=[])) is None
    assert roofline_plot(document(peaks=[{**PEAKS, "threads": 4}])) is None


def test_an_error_of_zero_is_drawn_below_all_others():
    (axes,) = precision_plot(document()).axes
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
    figure = precision_plot(document(*rows))
    assert titles(figure) == [
        "stream, end to end, against eager\nbatch 2, 1 step, 1 thread",
        "sequence, end to end, against eager\nbatch 1, 100 steps, 1 thread",
    ]


def test_labels_of_points_overlap_neither_each_other_nor_the_edge():
    crowd = [row(f"a variant {number}", 20 + 0.2 * number, error=0.0) for number in range(12)]
    figure = precision_plot(document(row("eager", 200.0, error=0.0), *crowd))
    (axes,) = figure.axes
    boxes = boxes_of(axes)
    assert len(boxes) == 13
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    inside = axes.get_window_extent()
    assert all(inside.x0 < box.x0 and box.x1 < inside.x1 and inside.y0 < box.y0 and box.y1 < inside.y1 for box in boxes)
