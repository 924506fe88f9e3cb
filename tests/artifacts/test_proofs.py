import shlex
from pathlib import Path

import pytest
from msgspec.structs import replace

from lstm_deploy.artifacts.bundle import Bundle
from lstm_deploy.artifacts.proofs import proof, reference_options, unproven


@pytest.fixture
def of_code(bundle_copy, monkeypatch):
    """A bundle of a class in a file beside its weights, named from that folder as the export was."""
    monkeypatch.chdir(bundle_copy.parent)
    Path("net.py").write_text("", encoding="utf-8")
    bundle = Bundle("forecast")
    options = {"model": "net.py:Net", "init": {"hidden": 16}, "weights_key": "ema model"}
    bundle.update(source=replace(bundle.manifest.source, kind="module"), options=bundle.manifest.options | options)
    return bundle


def words(bundle):
    return [*proof(bundle, bundle.path).command]


def test_a_source_that_is_found_needs_no_option(bundle_copy):
    bundle = Bundle(bundle_copy)
    assert (bundle.source_obstacle, reference_options(bundle)) == ("", [])
    assert bundle.source_path == bundle_copy.with_name("forecaster.safetensors").resolve()
    assert str(proof(bundle, bundle_copy / "model.onnx", "cuda")) == shlex.join(
        ["lstm-deploy", "validate", str(bundle_copy / "model.onnx"), "--provider", "cuda"]
    )


def test_a_source_that_needs_code_is_named_as_it_was_exported(of_code, monkeypatch):
    assert "needs the class net.py:Net" in of_code.source_obstacle
    assert of_code.source_path is None
    named = ["--reference", "forecaster.safetensors", "--model", "net.py:Net", "--init", '{"hidden": 16}']
    named += ["--weights-key", "ema model"]
    assert words(of_code) == ["validate", "forecast", *named]
    assert proof(of_code, of_code.path).is_complete
    assert shlex.split(str(proof(of_code, of_code.path))) == ["lstm-deploy", *words(of_code)]
    monkeypatch.chdir("forecast")  # from elsewhere, the class is found beside its weights
    assert reference_options(Bundle("."))[3] == f"{Path('../net.py').resolve()}:Net"


def test_what_is_not_there_any_more_is_left_to_fill_in(of_code):
    Path("net.py").unlink()
    assert words(of_code)[4:6] == ["--model", "FILE.py:Net"]
    assert not proof(of_code, of_code.path).is_complete
    Path("forecaster.safetensors").write_bytes(b"others")
    assert of_code.source_obstacle == "its source forecaster.safetensors has changed since the export"
    assert words(of_code)[2:4] == ["--reference", "FILE"]
    Path("forecaster.safetensors").unlink()
    assert of_code.source_obstacle == "its source forecaster.safetensors is gone"


def test_modules_that_no_class_names_are_opened_as_they_were(of_code):
    of_code.update(options={})
    assert "is a pickled module" in of_code.source_obstacle
    assert words(of_code) == ["validate", "forecast", "--reference", "forecaster.safetensors", "--trust-pickle"]
    of_code.update(source=replace(of_code.manifest.source, path=None, sha256=None))
    assert "a live module" in of_code.source_obstacle
    assert words(of_code)[2:] == ["--reference", "FILE", "--model", "FILE.py:Class"]


def test_an_artifact_is_proven_on_a_provider_by_all_its_checks(bundle_copy):
    bundle = Bundle(bundle_copy)
    artifact, *_ = bundle.manifest.artifacts
    assert unproven(bundle, artifact) == ""
    assert unproven(bundle, artifact, "cuda") == "has not been validated on cuda"
    first, *others = bundle.manifest.parity.checks
    bundle.update(parity=replace(bundle.manifest.parity, checks=(replace(first, passed=False), *others)))
    assert unproven(bundle, artifact) == "has failed validation"
    (bundle_copy / artifact.path).write_bytes(b"")
    assert unproven(bundle, artifact) == "is not the file that was validated"
