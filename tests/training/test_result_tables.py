from lstm_deploy.training import result_tables

METRICS = {
    "rows": 209,
    "by_target": {"close": {"rmse": 15.04, "naive_rmse": 15.02}},
    "rmse": 15.043,
    "naive_rmse": 15.02,
    "seasonal_naive_rmse": 16.0,
    "season": None,
    "rmse_by_step": [1.0, 2.0],
}


def test_a_metric_stands_beside_those_of_the_baselines_and_targets_come_last():
    headings, rows = result_tables.metric_table(METRICS)
    assert headings == ["metric", "model", "naive", "seasonal naive"]
    assert rows == [
        ["rows", "209", "", ""],
        ["rmse", "15.04", "15.02", "16"],
        ["rmse by step", "1, 2", "", ""],
        ["close: rmse", "15.04", "15.02", ""],
    ]


def test_a_baseline_that_there_is_not_has_no_column():
    assert result_tables.metric_table({"accuracy": 0.5, "naive_accuracy": 0.4})[0] == ["metric", "model", "naive"]


def test_the_verdict_says_by_how_much_a_baseline_is_beaten():
    verdict = result_tables.baseline_verdict
    assert verdict({"rmse": 9.0, "naive_rmse": 10.0}) == "Better than the naive baseline by 10.0% (rmse)."
    assert verdict({"rmse": 11.0, "naive_rmse": 10.0}).endswith("rmse is 10.0% worse.")
    assert verdict({"rmse": 10.001, "naive_rmse": 10.0}) == "It does NOT beat the naive baseline: rmse is the same."
