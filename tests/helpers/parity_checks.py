"""Checks of a validation, made up."""

from lstm_deploy.artifacts import Check


def check(name="shapes", artifact="model.onnx", output="y", **changes):
    fields = {"provider": "cpu", "passed": True, "max_abs": 1e-7, "tolerance": 1e-5, "detail": "", **changes}
    return Check(name=name, artifact=artifact, output=output, **fields)
