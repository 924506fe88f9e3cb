import re
import shutil
import sys

import numpy as np
import pytest
from documents import document, row
from msgspec.structs import replace
from parity_checks import check

from lstm_deploy.artifacts.bundle import Bundle
from lstm_deploy.artifacts.parity_report import Diagnosis, ParityReport
from lstm_deploy.benchmark import BenchReport
from lstm_deploy.exporters import report
from lstm_deploy.training import plots as training_plots

pytestmark = pytest.mark.whole


def test_a_bundles_report_has_its_contract_parity_and_plot(forecast_bundle):
    text = (forecast_bundle / "report.md").read_text(encoding="utf-8")
    assert "`h_in: float32[2, batch, 8]`" in text
    assert re.search(r"\| Is it right\? \| \*\*Yes\*\*: all \d+ checks passed, against PyTorch in float64", text)
    assert text.index("\n## Use it") < text.index("\n## Is it right?") < text.index("\n## Details")
    assert (forecast_bundle / "report" / "parity.png").read_bytes().startswith(b"\x89PNG")
    assert (forecast_bundle / "report" / "errors.png").read_bytes().startswith(b"\x89PNG")
    assert "Not measured yet" in text
    assert "`lstm-deploy bench forecast`" in text


@pytest.mark.parametrize("difference", [0.0, 1e-7, 1e9])
def test_checks_are_drawn_whatever_they_found(bundle_copy, difference):
    bundle = Bundle(bundle_copy)
    parity = bundle.manifest.parity
    checks = tuple(replace(check, passed=difference < 1, max_abs=difference) for check in parity.checks)
    profiles = tuple(replace(p, errors=tuple(difference for _ in p.errors)) for p in parity.profiles)
    bundle.update(parity=replace(parity, passed=difference < 1, checks=checks, profiles=profiles))
    plots = [bundle_copy / "report" / name for name in ("parity.png", "errors.png")]
    for plot in plots:
        plot.unlink()
    report.write(bundle)
    assert all(plot.stat().st_size > 20_000 for plot in plots), "an empty page has a tenth of that"


def test_measurements_join_the_report(bundle_copy):
    bundle = Bundle(bundle_copy)
    bundle.update(measurements=BenchReport(document(row("eager", p50=100.0), row())).without_samples())
    report.write(bundle)
    text = (bundle_copy / "report.md").read_text(encoding="utf-8")
    assert (
        "**12.3 µs** a step with `model.onnx`, 0.12 of what `eager` takes; measured on A CPU, 2 cores to use." in text
    )
    assert "| a step | `model.onnx` | cpu | 12.3 | – | 0.12 of `eager` |" in text
    assert "A CPU, 2 core(s)" in text
    assert "| onnx | 12.3 | 13.6 | – | 81,004 | 0.123 (0.121–0.126) | 25% L2 |" in text
    assert (bundle_copy / "report" / "latency.png").is_file()


def test_a_failed_check_is_the_first_thing_that_a_report_says(bundle_copy):
    bundle = Bundle(bundle_copy)
    parity = bundle.manifest.parity
    first, *others = parity.checks
    wrong = replace(first, passed=False, detail="it is another file")
    bundle.update(parity=replace(parity, passed=False, checks=(wrong, *others)))
    report.write(bundle)
    text = (bundle_copy / "report.md").read_text(encoding="utf-8")
    assert f"**No**: 1 of {len(parity.checks)} checks failed, in `model.onnx`" in text
    assert "| **1 of " in text
    assert "it is another file" in text


def test_a_report_says_why_int8_is_left_out(bundle_copy):
    bundle = Bundle(bundle_copy)
    bundle.update(notes=("model.int8.onnx is left out: it loses 3 %",))
    report.write(bundle)
    assert "- model.int8.onnx is left out: it loses 3 %." in (bundle_copy / "report.md").read_text(encoding="utf-8")


def test_a_bundle_that_was_never_checked_says_so(bundle_copy):
    bundle = Bundle(bundle_copy)
    bundle.update(parity=None)
    report.write(bundle)
    assert "**Not checked yet**" in (bundle_copy / "report.md").read_text(encoding="utf-8")


def test_without_matplotlib_there_are_no_plots_and_none_of_other_figures(bundle_copy, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(report, "why_missing", lambda name: f"{name} is not installed")
    report.write(Bundle(bundle_copy))
    text = (bundle_copy / "report.md").read_text(encoding="utf-8")
    assert "](report/" not in text
    assert "No plots: matplotlib is not installed." in text
    assert not list((bundle_copy / "report").glob("*.png"))


def test_artifacts_stand_side_by_side():
    checks = [check(), check(artifact="model.torchscript", passed=False, max_abs=0.5), check(name="lint", max_abs=None)]
    ((headings, rows),) = report.parity_tables(checks)
    assert headings == ["check", "output", "tolerance", "model.onnx", "model.torchscript"]
    assert rows[0] == ["shapes", "y", "1.0e-05", "1.0e-07", "FAILED 5.0e-01"]
    assert rows[1][3:] == ["passed", ""]


def test_figures_stand_beside_the_tolerances_that_they_were_held_to():
    """Artifacts are worst in other columns, of other sizes: a figure that failed may be below another's tolerance."""
    wide = check(max_abs=5e-3, tolerance=1e-2)
    narrow = check(artifact="model.torchscript", passed=False, max_abs=2e-3, tolerance=1e-3)
    ((_, rows),) = report.parity_tables([wide, narrow])
    assert rows == [["shapes", "y", "each its own", "5.0e-03 of 1.0e-02", "FAILED 2.0e-03 of 1.0e-03"]]


def test_failures_say_where():
    parity = ParityReport(
        passed=False,
        reference="PyTorch",
        checks=(check(), check(passed=False, detail="at [0]")),
        diagnoses=(Diagnosis(artifact="model.onnx", cause="rows are mixed", place="after step 1"),),
    )
    assert parity.explain_failures() == [
        "model.onnx: likely cause: rows are mixed",
        "model.onnx: first difference: after step 1",
        "model.onnx shapes y: at [0]",
    ]


@pytest.mark.parametrize("steps", [1, 5])
def test_forecasts_of_any_length_and_number_can_be_plotted(tmp_path, steps):
    figure = training_plots.forecast_plot(("a", "ü"), ["x"] * (9 + steps), np.zeros((9, 2)), np.ones((steps, 2)))
    report.save_plot(figure, tmp_path / "p.svg")
    assert b"<svg" in (tmp_path / "p.svg").read_bytes()


def test_a_report_is_written_into_the_bundle_wherever_its_names_lead(bundle_copy, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.rmtree(bundle_copy / "report")
    (bundle_copy / "report.md").unlink()
    (bundle_copy / "report").symlink_to(outside, target_is_directory=True)
    (bundle_copy / "report.md").symlink_to(outside / "report.md")
    report.write(Bundle(bundle_copy))
    assert list(outside.iterdir()) == []
    assert (bundle_copy / "report" / "parity.png").is_file()
    assert (bundle_copy / "report.md").is_file()
