from functools import partial

import parity_checks
import pytest

from lstm_deploy.artifacts import Diagnosis, ParityReport
from lstm_deploy.cli import validate_screen

check = partial(parity_checks.check, max_abs=1e-6, detail="as it should be")


@pytest.fixture
def screen(capsys):
    def show(*checks, verbose=False, **more):
        passed = all(each.passed for each in checks)
        validate_screen.show(ParityReport(passed=passed, reference="PyTorch", checks=checks, **more), verbose=verbose)
        return capsys.readouterr().out.splitlines()

    return show


def test_what_passes_is_one_line_an_artifact(screen):
    names = ("shapes", "chunked", "steps")
    checks = [check(name, artifact) for artifact in ("model.onnx", "model.torchscript") for name in names]
    out = screen(*checks, check("liveness", output="h_out", max_abs=7e-6))
    assert len(out) == 5
    assert out[1].split() == ["model.onnx", "float32", "4", "passed", "70%", "of", "tolerance", "(h_out,", "liveness)"]
    assert out[-1] == "PASSED  7 checks passed for 2 files, on cpu, against PyTorch."


def test_every_check_is_shown_on_request(screen):
    out = screen(check(), check("runs", output="", max_abs=None, tolerance=None), verbose=True)
    assert "  shapes  y          1.0e-06    1.0e-05  10% of tolerance" in out
    assert any(line.split() == ["runs", "passed"] for line in out)


def test_a_failure_is_one_line_for_each_cause(screen):
    failed = [check(name, passed=False, max_abs=0.5, detail=f"worst at [{n}]") for n, name in enumerate("abcdef")]
    unseen = check("sha256", output="", passed=False, max_abs=None, tolerance=None, detail="it was changed")
    told = check("weights", output="", passed=False, max_abs=None, tolerance=None, detail="a gate is wrong")
    diagnosis = Diagnosis(artifact="model.onnx", cause="a gate is wrong, of layer 0", place="step 1: y")
    out = screen(*failed, unseen, told, check("steps"), check(artifact="other.onnx"), diagnoses=(diagnosis,))
    text = "\n".join(out)
    assert "8 of 9 FAILED" in text
    assert text.count("a gate is wrong") == text.count("it was changed") == text.count("worst at") == 1
    assert "first difference  step 1: y" in text
    assert "failed checks     a, b, c, d, e, f, sha256, weights" in text
    assert out[-1] == "FAILED  8 of 10 checks, 1 of 2 files, on cpu, against PyTorch."
