"""A rollout that goes wrong in any way known must not pass."""

import pytest
from feeding import feeders

import lstm_deploy
from lstm_deploy.exporters import onnx_rollout, rollout_torch
from lstm_deploy.validation.checks import Subject
from lstm_deploy.validation.judging import check_file, of_bundle
from lstm_deploy.validation.pipeline import validate

TEXT = "two LSTMs"
BROKEN = {
    "the state is never carried": (
        TEXT,
        "answer, @after = local.step (token, @before",
        "answer, @after = local.step (token, @read",
    ),
    "the first token is fed for ever": (
        TEXT,
        "local.step (token, @before, WEIGHTS)\n    next",
        "local.step (first, @before, WEIGHTS)\n    next",
    ),
    "the rest of a longer prompt is not read": (
        TEXT,
        "known_after = Where (reads_said, further, known)",
        "known_after = Identity (known)",
    ),
    "rows that wait hear the others' end": (
        TEXT,
        "known_after = Where (reads_said, further, known)",
        "known_after = Identity (further)",
    ),
    "rows that wait go on": (
        TEXT,
        "each after_# = Where (reads_state, further_#, before_#)",
        "each after_# = Identity (further_#)",
    ),
    "each noise is used one step late": (TEXT, "following = Add (i, ones)", "following = Add (i, zeros)"),
    "the temperature is ignored": (TEXT, "scaled = Div (allowed, temperature)", "scaled = Identity (allowed)"),
    "top_k is ignored": (TEXT, "allowed = Where (below, never, said)", "allowed = Identity (said)"),
    "a text goes on after its end": (TEXT, "wanted = Where (ended, stop, chosen)", "wanted = Identity (chosen)"),
    "the likeliest token is the least likely": (TEXT, "top = ArgMax", "top = ArgMin"),
    "the last noise is drawn from the first": (
        TEXT,
        "passed = LessOrEqual (cumulative, threshold)",
        "passed = LessOrEqual (cumulative, cumulative)",
    ),
    "the first forecast is fed for ever": ("carried", "local.step (value, @before", "local.step (first, @before"),
    "a forecast starts anew at each step": (
        "carried",
        "next, @after = local.step (value, @before",
        "next, @after = local.step (value, @first",
    ),
    "the window slides the wrong way": ("window", "Concat <axis = 1> (seen, next)", "Concat <axis = 1> (next, seen)"),
    "the window stands still": ("window", "next, @unused = local.read (seen,", "next, @unused = local.read (window,"),
    "the window is the first one": (
        "window",
        "window = Slice (x, latest, end, ones)",
        "a = Constant <value_ints = [0]> ()\n  b = Constant <value_ints = [5]> ()\n  window = Slice (x, a, b, ones)",
    ),
}
"""By what is wrong: the network, and what is put in the place of what in the text of its rollout."""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("feeders")
    return {
        name: lstm_deploy.export(
            feeder.module.eval(),
            folder / name,
            inputs=feeder.inputs,
            task=feeder.task,
            state_policy=feeder.state_policy,
        ).path
        for name, feeder in feeders().items()
        if name in {network for network, _, _ in BROKEN.values()}
    }


def rollout_subject(path, model):
    return Subject(path=path, name=path.name, precision="float32", model=model, rollout_steps=64)


@pytest.mark.parametrize("name", BROKEN)
def test_a_wrong_rollout_does_not_pass(name, bundles, tmp_path, monkeypatch):
    network, right, wrong = BROKEN[name]
    changed = 0
    for text in ("GENERATE", "CARRY", "RESET", "CHOOSE"):
        before = getattr(onnx_rollout, text)
        monkeypatch.setattr(onnx_rollout, text, before.replace(right, wrong))
        changed += right in before
    assert changed
    model = bundles[network] / "model.onnx"
    onnx_rollout.export_rollout(model, tmp_path / "rollout.onnx")
    results = check_file(rollout_subject(tmp_path / "rollout.onnx", model), [])
    assert {check.name for check in results.checks if not check.passed} == {"rollout"}


@pytest.mark.parametrize("network", ["two LSTMs", "carried", "window"])
def test_right_rollouts_pass(network, bundles):
    report = validate(bundles[network])
    names = {check.artifact for check in report.checks if check.name == "rollout"}
    assert names == {"rollout.onnx", "rollout.torchscript"}
    assert report.passed


def test_torchscript_that_forgets_its_state_does_not_pass(bundles, tmp_path, monkeypatch):
    text = rollout_torch.GENERATE.replace(
        "said, @state = self.step(token.unsqueeze(1)", "said, @after = self.step(token.unsqueeze(1)"
    )
    assert text != rollout_torch.GENERATE
    monkeypatch.setattr(rollout_torch, "GENERATE", text)
    model = bundles[TEXT] / "model.torchscript"
    rollout_torch.export_rollout_torchscript(model, tmp_path / "rollout.torchscript")
    results = check_file(rollout_subject(tmp_path / "rollout.torchscript", model), [])
    assert not all(check.passed for check in results.checks)


def test_the_report_says_what_a_rollout_should_have_given(bundles, tmp_path, monkeypatch):
    """A file that was changed after the export, in a bundle that still lists it."""
    import shutil

    folder = shutil.copytree(bundles["carried"], tmp_path / "b")
    monkeypatch.setattr(onnx_rollout, "CARRY", onnx_rollout.CARRY.replace("local.step (value", "local.step (first"))
    onnx_rollout.export_rollout(folder / "model.onnx", folder / "rollout.onnx")
    report = validate(folder)
    assert {check.name for check in report.failures} == {"sha256", "rollout"}
    (diagnosis,) = report.diagnoses
    assert diagnosis.artifact == "rollout.onnx"
    assert "model.onnx, called once for each step, gives something else" in diagnosis.cause


def test_a_rollout_is_judged_by_the_contract_that_follows_from_its_models(bundles):
    bundle = lstm_deploy.Bundle(bundles["carried"])
    subject = of_bundle(bundle, bundle.manifest.rollouts[0])
    assert subject.contract.rollout
    assert subject.model == (bundle.path / "model.onnx").resolve()
