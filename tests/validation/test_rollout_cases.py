"""A rollout that goes wrong in any way known must not pass."""

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from feeding import feeders

import lstm_deploy
from lstm_deploy.artifacts.bundle import Artifact, Bundle
from lstm_deploy.contract.rollouts import rollout_contract
from lstm_deploy.contract.signature import CONTRACT_FILE
from lstm_deploy.exporters import onnx_rollout, rollout_programs
from lstm_deploy.validation.checks import Subject
from lstm_deploy.validation.judging import check_file, of_bundle
from lstm_deploy.validation.pipeline import validate

TEXT = "two LSTMs"
BROKEN = {
    "the state is never carried": (
        TEXT,
        "step_logits, @after = local.step (token, @before",
        "step_logits, @after = local.step (token, @read",
    ),
    "the first token is fed for ever": (
        TEXT,
        "local.step (token, @before, WEIGHTS)\n    next",
        "local.step (first, @before, WEIGHTS)\n    next",
    ),
    "the rest of a longer prompt is not read": (
        TEXT,
        "logits_after = Where (reads_logits, next_logits, logits_before)",
        "logits_after = Identity (logits_before)",
    ),
    "rows that wait hear the others' end": (
        TEXT,
        "logits_after = Where (reads_logits, next_logits, logits_before)",
        "logits_after = Identity (next_logits)",
    ),
    "rows that wait go on": (
        TEXT,
        "each after_# = Where (reads_state, further_#, before_#)",
        "each after_# = Identity (further_#)",
    ),
    "each noise is used one step late": (TEXT, "following = Add (i, ones)", "following = Add (i, zeros)"),
    "the temperature is ignored": (TEXT, "scaled = Div (allowed, temperature)", "scaled = Identity (allowed)"),
    "top_k is ignored": (TEXT, "allowed = Where (below, impossible, logits)", "allowed = Identity (logits)"),
    "a text goes on after its end": (
        TEXT,
        "token_or_stop = Where (ended, stop, chosen)",
        "token_or_stop = Identity (chosen)",
    ),
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
        before = getattr(rollout_programs, text)
        monkeypatch.setattr(rollout_programs, text, before.replace(right, wrong))
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
    assert names == {"rollout.onnx"}
    assert report.passed


OLDER_ROLLOUT = """
def forward(self, x: Tensor, steps: Tensor, h: Tensor, c: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    y, h, c = self.model(x, h, c)
    values = [y[:, -1:]]
    for _ in range(int(steps) - 1):
        y, h, c = self.model(values[-1], h, c)
        values.append(y)
    return torch.cat(values, 1), h, c
"""


def test_a_bundle_that_lists_a_torchscript_rollout_still_opens_validates_and_runs(bundles, tmp_path):
    """`export` writes none any more."""
    folder = Path(shutil.copytree(bundles["carried"], tmp_path / "b"))
    bundle, path = Bundle(folder), folder / "rollout.torchscript"
    holder = torch.nn.Module()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # all of torch.jit is deprecated
        holder.model = torch.jit.load(folder / "model.torchscript")
        script = torch.jit.script(holder)
        script.define(OLDER_ROLLOUT)
        torch.jit.save(script, path, _extra_files={CONTRACT_FILE: rollout_contract(bundle.signature).to_json()})
    bundle.update(rollouts=(*bundle.manifest.rollouts, Artifact.of(path, "torchscript")))
    report = validate(folder)
    assert report.passed
    assert {check.artifact for check in report.checks if check.name == "rollout"} == {"rollout.onnx", path.name}
    feeds = {"x": np.ones((1, 5, 2)), "steps": 9}
    model = lstm_deploy.open(folder)
    np.testing.assert_allclose(model.rollout(feeds, runtime="torchscript")["y"], model.rollout(feeds)["y"], rtol=1e-4)


def test_the_report_says_what_a_rollout_should_have_given(bundles, tmp_path, monkeypatch):
    """A file that was changed after the export, in a bundle that still lists it."""
    folder = shutil.copytree(bundles["carried"], tmp_path / "b")
    monkeypatch.setattr(
        rollout_programs, "CARRY", rollout_programs.CARRY.replace("local.step (value", "local.step (first")
    )
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
