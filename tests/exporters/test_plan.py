from c_programs import NEEDS_CC

import lstm_deploy
from lstm_deploy.exporters.plan import make_plan
from lstm_deploy.lifting.sources import Origin


def test_the_same_source_again_is_up_to_date(forecaster, tmp_path):
    origin, output = Origin(path=forecaster), tmp_path / "b"

    def up_to_date(*options, origin=origin):
        return make_plan(output, origin, *options).existing_bundle()

    first = lstm_deploy.export(forecaster, output, formats=["onnx"])
    before = (output / "manifest.json").stat().st_mtime_ns
    assert up_to_date(["onnx"])
    lstm_deploy.export(forecaster, output, formats=["onnx"])
    assert (output / "manifest.json").stat().st_mtime_ns == before
    assert not up_to_date(), "other formats"
    assert not up_to_date(["onnx"], "batch-first")
    assert not up_to_date(["onnx"], origin=Origin(path=forecaster, model="a:B"))
    (first.path / "model.onnx").write_bytes(b"changed")
    assert not up_to_date(["onnx"]), "changed since"


def test_a_plan_writes_nothing(forecaster, tmp_path):
    plan = make_plan(tmp_path / "b", Origin(path=forecaster)).preview()
    assert "model.onnx" in plan["files"]
    assert plan["contract"].input_names == ["x", "h_in", "c_in"]
    assert list(tmp_path.iterdir()) == []


@NEEDS_CC
def test_a_plan_lists_the_files_of_c(forecaster, tmp_path):
    plan = make_plan(tmp_path / "e", Origin(path=forecaster), ["onnx", "c"]).preview()
    assert plan["files"] == [
        "manifest.json",
        "model.onnx",
        "model.c",
        "model.h",
        "rollout.onnx",
        "golden.npz",
        "report.md",
    ]
