import copy
import json

import pytest
from documents import ENVIRONMENT, document, row

from lstm_deploy.benchmark.comparison import compare, table
from lstm_deploy.errors import InputError


def measured(ours=10.0, eager=100.0, seed=0, spread=0.03, **changes):
    return document(
        row("eager", p50=eager, seed=2 * seed, spread=spread, ratio_to_baseline=1.0),
        row("onnx", p50=ours, seed=2 * seed + 1, spread=spread),
        **changes,
    )


def verdict(comparison, variant="onnx"):
    (change,) = (change for change in comparison.changes if change.row["variant"] == variant)
    return change.verdict


def test_a_row_that_became_slower_is_a_regression():
    comparison = compare(measured(), measured(ours=11.0, seed=1))
    assert verdict(comparison) == "slower"
    (change,) = comparison.regressions
    assert change.times == pytest.approx(1.1, abs=0.03)
    assert change.probability < 0.01


def test_two_equal_benchmarks_show_no_regression():
    """By chance, 5 % of all comparisons may say otherwise."""
    verdicts = [verdict(compare(measured(seed=seed), measured(seed=seed + 100))) for seed in range(40)]
    assert sum(outcome != "no difference" for outcome in verdicts) <= 2


def test_a_slower_machine_is_no_regression():
    assert not compare(measured(), measured(ours=12.0, eager=120.0, seed=1)).regressions


def test_a_faster_baseline_is_no_regression():
    assert verdict(compare(measured(), measured(eager=80.0, seed=1))) == "no difference"


def test_a_change_below_the_allowed_one_is_no_regression():
    assert not compare(measured(), measured(ours=11.0, seed=1), allowed=0.2).regressions


def test_noise_as_large_as_the_change_is_no_regression():
    assert not compare(measured(spread=0.5), measured(ours=11.0, seed=1, spread=0.5)).regressions


def test_an_improvement_is_reported():
    assert verdict(compare(measured(), measured(ours=8.0, seed=1))) == "faster"


def test_without_a_baseline_microseconds_count():
    old, new = (document(row(p50=p50, seed=seed, baseline=None)) for p50, seed in ((10.0, 0), (12.0, 1)))
    assert verdict(compare(old, new)) == "slower"


def test_a_baseline_of_another_precision_counts_too():
    def measured(ours, theirs, seed):
        baseline = row("legacy-int8", p50=theirs, precision="int8", seed=seed, baseline="legacy-int8", artifact="")
        return document(baseline, row(p50=ours, seed=seed + 1, baseline="legacy-int8"))

    assert not compare(measured(10.0, 20.0, 0), measured(12.0, 24.0, 2)).regressions
    assert compare(measured(10.0, 20.0, 0), measured(12.0, 20.0, 2)).regressions


def test_changes_within_the_noise_floor_are_allowed():
    old = document(row(p50=10.0, baseline=None, noise_floor=0.3))
    assert not compare(old, document(row(p50=12.0, seed=1, baseline=None))).regressions


def test_rows_are_matched_by_their_case():
    old = document(row(p50=10.0), row(p50=50.0, batch=32))
    new = document(row(p50=50.0, batch=32, seed=1), row(p50=10.0, seed=2), row(p50=99.0, threads=2))
    assert {change.verdict for change in compare(old, new).changes} == {"no difference"}


def test_missing_rows_are_named():
    comparison = compare(document(row(), row(batch=32)), document(row()))
    assert comparison.missing == ["onnx cpu float32 stream end_to_end 32 1 1"]
    with pytest.raises(InputError, match="no row in common"):
        compare(document(row()), document(row(batch=2)))


def test_different_machines_are_not_compared():
    other = copy.deepcopy(ENVIRONMENT)
    other["cpu"]["model"] = "Another CPU"
    with pytest.raises(InputError, match="A CPU and Another CPU"):
        compare(measured(), measured(environment=other))
    assert (
        "different machines: cpu A CPU and Another CPU"
        in compare(measured(), measured(environment=other), force=True).notes
    )


def test_different_models_are_not_compared():
    old, new = document(row(operations=1000.0)), document(row(operations=2000.0))
    with pytest.raises(InputError, match=r"1,000 operations in the first and 2,000 in the second"):
        compare(old, new)
    assert compare(old, new, force=True).changes
    assert compare(old, document(row(operations=None))).changes


def test_different_versions_are_noted():
    other = copy.deepcopy(ENVIRONMENT)
    other["versions"] = {"python": "3.12", "torch": "2.13"}
    notes = compare(measured(), measured(environment=other)).notes
    assert "python 3.11 and then 3.12" in notes
    assert "torch not installed and then 2.13" in notes


def test_regressions_come_first():
    old = document(row("a", p50=10.0), row("b", p50=10.0, seed=1))
    new = document(row("a", p50=10.0, seed=2), row("b", p50=15.0, seed=3))
    headings, rows = table(compare(old, new))
    assert headings == ["variant", "old µs", "new µs", "change", "÷ baseline", "chance", "verdict"]
    assert [(cells[0], cells[-1]) for cells in rows] == [("b", "slower"), ("a", "no difference")]


def test_files_are_compared_as_results_are(tmp_path):
    for name, ours in (("old", 10.0), ("new", 20.0)):
        (tmp_path / f"{name}.json").write_text(json.dumps(measured(ours=ours)))
    compared = compare(tmp_path / "old.json", str(tmp_path / "new.json"))
    assert not compared.passed
    assert repr(compared) == "<Comparison: 1 of 1 rows slower by more than 5%>"
    frame = compared.to_pandas()
    assert frame[["variant", "verdict"]].to_numpy().tolist() == [["onnx", "slower"]]
    assert "slower" in compared._repr_html_()
    assert compare(measured(), measured(seed=1)).passed


@pytest.mark.parametrize("allowed", ["5%", -0.1, float("nan"), None])
def test_what_is_allowed_is_a_number(allowed):
    with pytest.raises(InputError, match="a fraction such as"):
        compare(measured(), measured(), allowed=allowed)
