import re
from pathlib import Path

import numpy as np
from fake_runtime import SUBJECT, Fake, case, right

from lstm_deploy.artifacts.bundle import Bundle
from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.errors import ProviderError
from lstm_deploy.runtimes.opening import open_runtime
from lstm_deploy.validation.checks import CHECKS, CheckContext, run_checks
from lstm_deploy.validation.judging import check_runtime

NAMES = [spec.name for spec in CHECKS]


def checked(runtime):
    return {check.name: check for check in check_runtime(SUBJECT, runtime, [case()]).checks}


def test_each_check_has_a_name_of_its_own_and_needs_what_there_is():
    assert len(set(NAMES)) == len(NAMES)
    assert {need for spec in CHECKS for need in spec.needs} <= set(CheckContext._fields)


def test_the_documentation_explains_each_check():
    page = (Path(__file__).parents[2] / "docs" / "validation.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(NAMES)


def test_a_check_runs_where_all_that_it_needs_is_there():
    assert [check.name for check in run_checks(CheckContext(SUBJECT, "cpu"))] == []
    context = CheckContext(SUBJECT, "cpu", runtime=Fake(right), cases=[case()])
    assert [check.name for check in run_checks(context)] == ["provider", "stream", "repeatable"]


def test_all_kinds_of_checks_are_made(forecast_bundle):
    names = {check.name for check in Bundle(forecast_bundle).manifest.parity.checks if check.artifact == "model.onnx"}
    elsewhere = {"runs", "saturation", "lengths", "rollout", "weights", "structure", "thresholds"}
    assert names == set(NAMES) - elsewhere, "of artifacts that fail, int8, padded batches, rollouts, and `validate`"


def test_a_session_that_remembers_earlier_calls_is_detected():
    calls = []

    def remembering(feeds):
        calls.append(1)
        return {**right(feeds), "y": feeds["x"] * np.float32(len(calls))}

    check = checked(Fake(remembering))["repeatable"]
    assert check.detail == "y differ in a second call on the same inputs."


def test_a_reference_whose_inputs_have_other_names_fails_the_checks():
    (inputs,) = case().calls
    checks = check_runtime(SUBJECT, Fake(right), [case()._replace(calls=({"z": inputs["x"]},))]).checks
    checks = [check for check in checks if check.name in ("shapes", "repeatable")]
    assert [(check.name, check.passed) for check in checks] == [("shapes", False), ("repeatable", False)]


def test_each_check_is_reported_once(forecast_bundle):
    rows = [(check.artifact, check.name, check.output) for check in Bundle(forecast_bundle).manifest.parity.checks]
    assert len(set(rows)) == len(rows)


def test_what_the_graph_declares_is_compared_with_the_contract():
    runtime = Fake(right)
    shapes = {"x": ("batch", 5, 2), "h_in": (1, "batch", 1), "c_in": (1, "batch", 1)}
    shapes |= {"y": ("batch", "seq", 2), "h_out": (1, "batch", 1), "c_out": (1, "b", 1)}
    runtime.declared = lambda: [TensorSpec(name=name, dtype="float32", shape=shape) for name, shape in shapes.items()]
    check = checked(runtime)["declared"]
    assert not check.passed
    assert "x: float32[batch, 5, 2], not x: float32[batch, seq, 2]" in check.detail
    assert "c_out" not in check.detail, "dynamic dimensions may have any name"


def test_no_provider_is_silently_replaced_by_another(forecast_bundle):
    try:
        runtime = open_runtime(forecast_bundle / "model.onnx", "cuda")
    except ProviderError:
        return
    assert runtime.misplaced() == []
