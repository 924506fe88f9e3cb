import json
import os

import pytest
from command_line import fails, run
from documents import document, row
from typer.testing import CliRunner

from lstm_deploy.cli import app

SHORT = ["--no-record", "--no-roofline", "--rounds=9", "--batch=1", "--scope=end_to_end", "--scenario=stream"]


def test_bench_json_to_standard_output(forecast_bundle):
    assert json.loads(run("bench", forecast_bundle / "model.onnx", *SHORT, "--json", "-")[0])["results"]


@pytest.mark.whole
def test_results_are_shown_again_without_measuring(tmp_path):
    (tmp_path / "b.json").write_text(json.dumps(document(row("eager", p50=100.0), row())))
    words = ["--table", tmp_path / "t.csv", "--plot", tmp_path / "plots"]
    out, _ = run("bench", tmp_path / "b.json", *words)
    assert "8.1× faster" in out
    assert "p50_us" in (tmp_path / "t.csv").read_text()
    assert set(os.listdir(tmp_path / "plots")) == {"latency.png", "ratio.png"}
    run("bench", tmp_path / "b.json", "--table", tmp_path / "t.md")
    assert (tmp_path / "t.md").read_text(encoding="utf-8").startswith("A CPU, 2 core(s)")
    assert "one .json" in fails("bench", tmp_path / "b.json", tmp_path / "b.json").lower()
    assert "is not a directory" in fails("bench", tmp_path / "b.json", "--json", tmp_path / "none" / "b.json")
    assert ".md nor .csv" in fails("bench", tmp_path / "b.json", "--table", tmp_path / "t.txt")


def test_a_regression_is_exit_5(tmp_path):
    for name, p50, seed in (("old", 10.0, 0), ("same", 10.0, 1), ("slow", 12.0, 2)):
        (tmp_path / f"{name}.json").write_text(json.dumps(document(row(p50=p50, seed=seed, baseline=None))))
    old, same, slow = (tmp_path / f"{name}.json" for name in ("old", "same", "slow"))
    assert "OK  no significant slowdown over 5 %" in run("compare", old, same)[0]
    result = CliRunner().invoke(app, ["compare", str(old), str(slow), "--json"])
    assert result.exit_code == 5
    assert json.loads(result.stdout)["changes"][0]["verdict"] == "slower"
    assert "OK  no significant slowdown over 30 %" in run("compare", old, slow, "--fail-over", "30%")[0]
    assert "SLOWER  1 of 1 rows, by over 5 %" in run("compare", old, slow, code=5)[0]
    assert "write it as 1% or 0.01" in fails("compare", old, slow, "--fail-over", "1")
    assert "no result of lstm-deploy bench" in fails("compare", old, __file__)


def test_the_help_of_bench_names_every_baseline():
    from lstm_deploy.benchmark.variants import BASELINES

    out = "".join(run("bench", "--help")[0].split())
    assert all(f"{name}," in out or f"{name};" in out for name in BASELINES)


def test_what_was_not_validated_is_not_timed(bundle_copy):
    (bundle_copy / "model.onnx").write_bytes((bundle_copy / "model.onnx").read_bytes() + b"\0")
    assert "is not the file that was validated" in fails("bench", bundle_copy)


def test_a_measurement_is_not_recorded_on_request(bundle_copy):
    before = (bundle_copy / "manifest.json").read_bytes()
    run("bench", bundle_copy, *SHORT, "--baseline", "floor")
    run("validate", bundle_copy, "--no-record")
    assert (bundle_copy / "manifest.json").read_bytes() == before
