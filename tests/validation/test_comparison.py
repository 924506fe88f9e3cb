"""How outputs are compared, on arrays made for it; whole graphs are broken in `test_sabotage`."""

import numpy as np
import pytest
from fake_runtime import SUBJECT, Fake, case, right

from lstm_deploy.errors import InputError
from lstm_deploy.validation.comparison import Comparison
from lstm_deploy.validation.judging import check_runtime
from lstm_deploy.validation.tolerances import Override


def judged(outputs, *cases, overrides=None):
    cases = cases or [case()]
    checks = Comparison(Fake(outputs), "m.onnx", "float32", overrides).compare(cases[0].check, cases)
    return {check.output: check for check in checks}


def wrong(**changes):
    """`right`, but for some outputs."""
    return lambda feeds: {**right(feeds), **{name: change(feeds) for name, change in changes.items()}}


def test_each_output_is_judged_on_its_own():
    checks = judged(wrong(y=lambda feeds: feeds["x"]))
    assert {name: check.passed for name, check in checks.items()} == {"y": False, "h_out": True, "c_out": True}
    assert checks["y"].max_abs == 1.0


def test_the_worst_index_and_case_are_reported():
    def outputs(feeds):
        y = right(feeds)["y"]
        y[1, 2, 0] += 0.5
        return {**right(feeds), "y": y}

    check = judged(outputs, case(where="first"), case(where="second"))["y"]
    assert (check.passed, check.max_abs, check.worst_index) == (False, 0.5, (1, 2, 0))
    assert check.detail == "worst at [1, 2, 0], first"


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        (lambda feeds: feeds["x"][:, :1], "has shape [2, 1, 2], not [2, 3, 2]"),
        (lambda feeds: feeds["x"].astype(np.float64) * 2, "is float64, not float32"),
        (lambda feeds: feeds["x"] * np.float32(np.nan), "nan where 2"),
        (lambda feeds: feeds["x"] * np.float32(np.inf), "inf where 2"),
    ],
)
def test_misshapen_mistyped_and_infinite_outputs_fail(change, detail):
    check = judged(wrong(y=change))["y"]
    assert not check.passed
    assert detail in check.detail


def test_a_missing_output_fails():
    check = judged(lambda feeds: {name: value for name, value in right(feeds).items() if name != "y"})["y"]
    assert not check.passed
    assert "is missing" in check.detail


def test_a_runtime_that_raises_is_a_failed_check():
    def boom(feeds):
        raise RuntimeError("boom")

    checks = check_runtime(SUBJECT, Fake(boom), [case()]).checks
    checks = [check for check in checks if check.name in ("shapes", "repeatable")]
    assert [(check.name, check.passed) for check in checks] == [("shapes", False), ("repeatable", False)]
    assert all("boom" in check.detail for check in checks)


def test_the_artifacts_own_state_is_carried():
    stale = wrong(h_out=lambda feeds: np.ones_like(feeds["h_in"]))
    assert judged(stale)["h_out"].passed, "one call from zeros cannot show it"
    assert not judged(stale, case(calls=2))["h_out"].passed


def test_a_small_column_beside_a_huge_one_is_judged_by_its_own_size():
    sizes = {**case().sizes, "y": np.array([[[1e6, 1.0]]])}
    for column, passed in ((0, True), (1, False)):
        off = np.zeros(2, np.float32)
        off[column] = 1e-2
        assert judged(wrong(y=lambda feeds, off=off: feeds["x"] * 2 + off), case(sizes=sizes))["y"].passed is passed


def test_pytorchs_own_rounding_widens_the_tolerance():
    off = wrong(y=lambda feeds: feeds["x"] * np.float32(2.001))
    assert not judged(off)["y"].passed
    assert judged(off, case(rounding={"y": 1e-4}))["y"].passed


def test_a_tolerance_of_the_user_replaces_that_of_the_table():
    off = wrong(y=lambda feeds: feeds["x"] * np.float32(2.2))
    assert judged(off, overrides={"y": Override(absolute=0.3)})["y"].passed
    assert judged(off, overrides={"": Override(relative=0.2)})["y"].passed
    assert not judged(off, overrides={"h_out": Override(absolute=1)})["y"].passed


def test_nan_must_be_where_it_is_in_pytorch():
    nan = {**case().expected[0], "y": np.full((2, 3, 2), np.nan)}
    poisoned = case("nonfinite", expected=(nan,))
    assert not judged(right, poisoned)["y"].passed
    assert judged(wrong(y=lambda feeds: feeds["x"] * np.float32(np.nan)), poisoned)["y"].passed


def test_other_rows_must_be_right_also_where_the_runtime_swallows_nan():
    expected = {**case().expected[0], "y": case().expected[0]["y"].copy()}
    expected["y"][0] = np.nan
    for row, passed in ((0, True), (1, False)):

        def outputs(feeds, row=row):
            y = right(feeds)["y"]
            y[row] = 7
            return {**right(feeds), "y": y}

        runtime = Fake(outputs)
        runtime.swallows_nan = True
        checks = Comparison(runtime, "m.onnx", "float32").compare(
            "nonfinite", [case("nonfinite", expected=(expected,))]
        )
        check = next(check for check in checks if check.output == "y")
        assert check.passed is passed
        assert ("not judged" in check.detail) is passed


def test_profiles_show_how_differences_are_distributed(forecast_bundle):
    from lstm_deploy.artifacts.bundle import Bundle

    profiles = {(p.artifact, p.output): p for p in Bundle(forecast_bundle).manifest.parity.profiles}
    profile = profiles["model.onnx", "h_out"]
    assert profile.steps[:5] == (1, 2, 5, 10, 20)
    assert profile.steps[-1] == 1000
    assert list(profile.errors) == sorted(profile.errors), "the largest so far"
    assert sum(profile.histogram[:8]) > 0
    assert sum(profile.histogram[8:]) == 0, "nothing differs by 1e-4 of its size"


def test_no_tolerance_is_invented():
    with pytest.raises(InputError, match="int8 on cuda"):
        Comparison(type("Cuda", (Fake,), {"provider": "cuda"})(right), "m.onnx", "int8")


@pytest.mark.parametrize("swallows", [True, False])
def test_where_the_model_itself_gives_nan_only_a_runtime_that_swallows_it_may_give_numbers(swallows):
    """As where a mask leaves a row with nothing."""

    class Swallows(Fake):
        swallows_nan = swallows

    expected = {name: value.copy() for name, value in case().expected[0].items()}
    expected["h_out"][0, 1] = np.nan

    def passes(outputs):
        checks = Comparison(Swallows(outputs), "m.onnx", "float32").compare("shapes", [case(expected=(expected,))])
        return {check.output: check.passed for check in checks}

    def changed(value, row):
        def outputs(feeds):
            h = right(feeds)["h_out"]
            h[0, 1] = np.nan
            h[0, row] = value
            return {**right(feeds), "h_out": h}

        return outputs

    assert all(passes(changed(np.nan, 1)).values())
    assert passes(changed(0.2, 1))["h_out"] is swallows
    assert not passes(changed(np.nan, 0))["h_out"]
    assert not passes(changed(0.2, 0))["h_out"]
