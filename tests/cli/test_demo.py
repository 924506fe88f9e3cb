import csv
import shlex

import pytest
from next_lines import next_lines

from lstm_deploy.cli import app, demo


def test_the_prices_are_real_and_whole(prices):
    with prices.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1047
    assert rows[0] == {"date": "2004-08-19", "open": "100.0", "high": "104.06", "low": "95.96", "close": "100.34"}


@pytest.mark.whole
def test_the_demo_takes_both_models_from_training_to_use(tmp_path, capsys):
    """The whole demo but with one epoch in place of each training's own."""

    def run(*words):
        if words[0] == "train":
            words = (*words, "--epochs", "1")
        if words[0] == "bench":
            words = (*words, "--batch", "1", "--baseline", "floor", "--no-roofline")
        return app(words, prog_name="lstm-deploy", standalone_mode=False)

    demo.show(tmp_path / "demo ü", run)
    out, err = capsys.readouterr()
    assert out.count("$ lstm-deploy") == 10
    assert "checks passed" in out
    assert "FAILED" not in out
    for name in ("goog", "help"):
        report = (tmp_path / "demo ü" / name / "report.md").read_text(encoding="utf-8")
        assert "### All measurements" in report
    assert (tmp_path / "demo ü" / "goog-forecast.png").is_file()
    assert "The for statement " in out
    following = next_lines(err)[-4:]
    assert [shlex.split(line)[1] for line in following] == ["run", "inspect", "embed", "train"]
    for line in following:
        assert not app(shlex.split(line)[1:], standalone_mode=False), line
