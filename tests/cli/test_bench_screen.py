from documents import document, row

from lstm_deploy.cli import bench_screen


def screen(capsys, *rows, **changes):
    bench_screen.show(document(*rows, **changes))
    captured = capsys.readouterr()
    return captured.out.splitlines(), captured.err.splitlines()


EAGER = row("eager", p50=100.0, ratio_to_baseline=1.0, verdict="no difference")


def test_a_case_is_a_block_with_the_fastest_first_and_the_control_left_out(capsys):
    slow = row("torchscript", p50=150.0, ratio_to_baseline=1.5, verdict="slower")
    control = row("eager again", p50=99.0, verdict="no difference")
    out, _ = screen(capsys, EAGER, slow, row(), row("floor", p50=1.0), control)
    assert out[2] == "stream, one step a call, end to end, batch 1, 1 thread  noise 2%"
    assert [line.split()[0] for line in out[3:8]] == ["variant", "floor", "onnx", "eager", "torchscript"]
    assert " 8.1× faster " in out[5]
    assert " baseline " in out[6]
    assert " 1.50× slower " in out[7]
    assert out[7].endswith("█" * 30)
    assert out[6].endswith(f" {'█' * 20}")
    assert out[-1] == "FASTEST  onnx: 8.1 times faster than eager"


def test_what_is_fastest_is_said_for_each_case_by_what_differs(capsys):
    out, _ = screen(capsys, EAGER, row(), {**EAGER, "p50_us": 5.0, "batch": 32}, row(batch=32, verdict="slower"))
    assert "FASTEST  onnx for batch 1: 8.1 times faster than eager" in out
    assert "FASTEST  eager for batch 32" in out
    out, _ = screen(capsys, EAGER, row(), {**EAGER, "batch": 32}, row(batch=32))
    assert out[-1] == "FASTEST  onnx in both cases: 8.1 times faster than eager"


def test_cases_of_a_winner_are_counted_where_they_are_many(capsys):
    faster = [timed for batch in (1, 2, 4) for timed in ({**EAGER, "batch": batch}, row(batch=batch))]
    out, _ = screen(capsys, *faster, {**EAGER, "p50_us": 5.0, "batch": 32}, row(batch=32, verdict="slower"))
    assert out[-2:] == ["FASTEST  onnx in 3 of 4 cases: 8.1 times faster than eager", "FASTEST  eager for batch 32"]


def test_a_case_within_noise_has_no_winner(capsys):
    close = row(p50=99.0, verdict="no difference")
    out, _ = screen(capsys, EAGER, close)
    assert out[-1] == "SAME     the fastest and the baseline are within noise"
    out, _ = screen(capsys, {**EAGER, "p50_us": 98.0}, close, {**EAGER, "batch": 32}, row(batch=32))
    assert out[-2:] == [
        "FASTEST  onnx for batch 32: 8.1 times faster than eager",
        "SAME     in 1 of 2 cases, the fastest and the baseline are within noise",
    ]


def test_footnotes_are_only_for_what_appears(capsys):
    out, _ = screen(capsys, {**EAGER, "roofline_fraction": None}, row(roofline_fraction=None))
    assert not [line for line in out if line.startswith(("same", "of peak", "floor", "end to end", "≥"))]
    rows = [
        {**EAGER, "roofline_fraction": 0.001},
        row(verdict="no difference", roofline_fraction=1.21),
        row("floor", p50=1.0),
        row(scope="resident"),
    ]
    out, _ = screen(capsys, *rows)
    for beginning in ("same: the difference is within", "of peak: % of", "floor: ", "end to end: ", "≥100%: "):
        assert [line for line in out if line.startswith(beginning)], beginning
    (faster_than_the_peak,) = (line for line in out if line.startswith("  onnx") and "same" in line)
    assert "≥100%" in faster_than_the_peak
    assert "121%" not in "".join(out)
    assert "<1%" in "".join(out)


def test_unstable_rows_are_one_warning_without_the_control(capsys):
    shaky = [f"{bench_screen.tables.UNSTABLE_SAYS} 1 and 2 µs."]
    rows = [{**EAGER, "warnings": shaky}, row(warnings=shaky), row("eager again", warnings=shaky)]
    _, err = screen(capsys, *rows, left_out=["compile: it fails"])
    assert err[0] == "left out: compile: it fails."
    (warning,) = err[1:]
    assert warning.startswith("warning: 2 of 2 rows are unstable")


def test_intervals_are_of_the_same_sense_as_what_they_are_of(capsys):
    out, _ = screen(capsys, EAGER, row())
    assert " 7.9–8.3× " in out[4]
