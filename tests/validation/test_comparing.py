"""How one artifact is judged, on arrays made for it; whole graphs are broken in `test_sabotage`."""

import numpy as np
import pytest

from lstm_deploy.contract.signature import RecurrentSpec, Signature, TensorSpec
from lstm_deploy.errors import InputError, ProviderError
from lstm_deploy.runtimes.opening import open_runtime
from lstm_deploy.validation.cases import Case
from lstm_deploy.validation.comparing import Judge, prove
from lstm_deploy.validation.tolerances import Override

SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", "seq", 2)),),
    outputs=(TensorSpec(name="y", dtype="float32", shape=("batch", "seq", 2)),),
    recurrent=(
        RecurrentSpec(
            module="lstm", prefix="", input_size=2, hidden_size=1, proj_size=0, num_layers=1, num_directions=1
        ),
    ),
    streaming="exact",
)


class Fake:
    """A runtime whose outputs are made by a function of all that was fed."""

    provider = "cpu"
    swallows_nan = False
    signature = SIGNATURE

    def __init__(self, outputs):
        self.outputs = outputs

    def run(self, feeds):
        return self.outputs(feeds)

    def declared(self):
        return None

    def misplaced(self):
        return []


def right(feeds):
    return {"y": feeds["x"] * np.float32(2), "h_out": feeds["h_in"] + np.float32(1), "c_out": feeds["c_in"]}


def case(check="shapes", calls=1, **changes):
    """`right` on ones, `calls` times in a chain."""
    state = {"h_in": np.zeros((1, 2, 1), np.float32), "c_in": np.zeros((1, 2, 1), np.float32)}
    inputs = {"x": np.ones((2, 3, 2), np.float32)}
    wanted = []
    carried = state
    for _ in range(calls):
        wanted.append({name: value.astype(np.float64) for name, value in right({**inputs, **carried}).items()})
        carried = SIGNATURE.next_state({name: value.astype(np.float32) for name, value in wanted[-1].items()})
    sizes = {"y": np.full((1, 1, 2), 2.0), "h_out": np.ones((1, 1, 1)), "c_out": np.ones((1, 1, 1))}
    return Case(check, "ones", state, (inputs,) * calls, tuple(wanted), sizes)._replace(**changes)


def judged(outputs, *cases, overrides=None):
    judge = Judge(Fake(outputs), "m.onnx", "float32", overrides)
    judge.compare("shapes", cases or [case()])
    return {check.output: check for check in judge.checks}


def wrong(**changes):
    """`right`, but for some outputs."""
    return lambda feeds: {**right(feeds), **{name: change(feeds) for name, change in changes.items()}}


def test_each_output_is_judged_apart():
    checks = judged(wrong(y=lambda feeds: feeds["x"]))
    assert {name: check.passed for name, check in checks.items()} == {"y": False, "h_out": True, "c_out": True}
    assert checks["y"].max_abs == 1.0


def test_the_worst_index_and_case_are_told():
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

    judge = Judge(Fake(boom), "m.onnx", "float32")
    judge.compare("shapes", [case()])
    judge.repeat(case())
    assert [(check.name, check.passed) for check in judge.checks] == [("shapes", False), ("repeatable", False)]
    assert all("boom" in check.detail for check in judge.checks)


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


def test_pytorchs_own_rounding_widens_what_is_allowed():
    off = wrong(y=lambda feeds: feeds["x"] * np.float32(2.001))
    assert not judged(off)["y"].passed
    assert judged(off, case(rounding={"y": 1e-4}))["y"].passed


def test_a_users_tolerance_replaces_the_tables():
    off = wrong(y=lambda feeds: feeds["x"] * np.float32(2.2))
    assert judged(off, overrides={"y": Override(absolute=0.3)})["y"].passed
    assert judged(off, overrides={"": Override(relative=0.2)})["y"].passed
    assert not judged(off, overrides={"h_out": Override(absolute=1)})["y"].passed


def test_nan_must_be_where_it_is_in_pytorch():
    nan = {**case().wanted[0], "y": np.full((2, 3, 2), np.nan)}
    poisoned = case("nonfinite", wanted=(nan,))
    assert not judged(right, poisoned)["y"].passed
    assert judged(wrong(y=lambda feeds: feeds["x"] * np.float32(np.nan)), poisoned)["y"].passed


def test_other_rows_must_be_right_also_where_the_runtime_swallows_nan():
    wanted = {**case().wanted[0], "y": case().wanted[0]["y"].copy()}
    wanted["y"][0] = np.nan
    for row, passed in ((0, True), (1, False)):

        def outputs(feeds, row=row):
            y = right(feeds)["y"]
            y[row] = 7
            return {**right(feeds), "y": y}

        runtime = Fake(outputs)
        runtime.swallows_nan = True
        judge = Judge(runtime, "m.onnx", "float32")
        judge.compare("nonfinite", [case("nonfinite", wanted=(wanted,))])
        check = next(check for check in judge.checks if check.output == "y")
        assert check.passed is passed
        assert ("not judged" in check.detail) is passed


def test_a_session_that_remembers_is_seen():
    calls = []

    def remembering(feeds):
        calls.append(1)
        return {**right(feeds), "y": feeds["x"] * np.float32(len(calls))}

    judge = Judge(Fake(remembering), "m.onnx", "float32")
    judge.repeat(case())
    assert judge.checks[0].detail == "y differ in a second call on the same inputs."


def test_profiles_tell_how_the_differences_spread(forecast_bundle):
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
        Judge(type("Cuda", (Fake,), {"provider": "cuda"})(right), "m.onnx", "int8")


def test_all_kinds_of_checks_are_made(forecast_bundle):
    from lstm_deploy.artifacts.bundle import Bundle

    names = {check.name for check in Bundle(forecast_bundle).manifest.parity.checks if check.artifact == "model.onnx"}
    assert names == {
        "contract", "sha256", "lint", "golden", "shapes", "values", "nonfinite", "liveness", "rows", "chunked",
        "drift", "declared", "provider", "stream", "repeatable",
    }  # fmt: skip


def test_what_the_graph_declares_is_held_against_the_contract():
    runtime = Fake(right)
    shapes = {"x": ("batch", 5, 2), "h_in": (1, "batch", 1), "c_in": (1, "batch", 1)}
    shapes |= {"y": ("batch", "seq", 2), "h_out": (1, "batch", 1), "c_out": (1, "b", 1)}
    runtime.declared = lambda: [TensorSpec(name=name, dtype="float32", shape=shape) for name, shape in shapes.items()]
    runtime.recur = None
    checks = {check.name: check for check in prove(runtime, "m.onnx", "float32", [case()]).checks}
    assert not checks["declared"].passed
    assert "x: float32[batch, 5, 2], not x: float32[batch, seq, 2]" in checks["declared"].detail
    assert "c_out" not in checks["declared"].detail, "dynamic dimensions may have any name"


def test_no_provider_is_replaced_by_another_without_a_word(forecast_bundle):
    try:
        runtime = open_runtime(forecast_bundle / "model.onnx", "cuda")
    except ProviderError:
        return
    assert runtime.misplaced() == []
