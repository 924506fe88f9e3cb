import pytest
from parity_checks import check

from lstm_deploy.artifacts import Bundle, Check, Diagnosis, ParityReport
from lstm_deploy.errors import ParityError

RIGHT = check("chunked", max_abs=2e-7)
WRONG = check("golden", "model.int8.onnx", "h_out", passed=False, max_abs=3e-5, detail="worst at [0, 1] <3>")
FAILED = ParityReport(
    passed=False,
    reference="golden trace",
    checks=(RIGHT, WRONG),
    diagnoses=(Diagnosis(artifact="model.int8.onnx", cause="a gate is swapped", place="step 1, h_out"),),
)
PASSED = ParityReport(passed=True, reference="golden trace", checks=(RIGHT,))


def test_a_report_that_passed_says_nothing_when_it_is_asserted():
    PASSED.assert_passed()


def test_a_report_that_failed_raises_with_all_that_is_wrong():
    with pytest.raises(ParityError) as raised:
        FAILED.assert_passed()
    assert str(raised.value).splitlines() == [
        "1 of 2 checks FAILED, against golden trace.",
        "model.int8.onnx: likely cause: a gate is swapped",
        "model.int8.onnx: first difference: step 1, h_out",
        "model.int8.onnx golden h_out: worst at [0, 1] <3>",
    ]


def test_a_report_is_a_table_of_its_checks():
    frame = FAILED.to_pandas()
    assert list(frame.columns) == list(Check.__struct_fields__)
    assert frame[~frame.passed].artifact.tolist() == ["model.int8.onnx"]
    assert ParityReport(passed=True, reference="", checks=()).to_pandas().empty


def test_a_notebook_shows_a_line_for_each_artifact():
    html = FAILED._repr_html_()
    assert html.count("<tr>") == 3
    assert "2.0% of its tolerance (chunked y)" in html
    assert "300.0% of its tolerance (golden h_out)" in html
    assert "1 FAILED" in html
    assert "&lt;3&gt;" in html, "texts are escaped"
    assert repr(PASSED) == "<ParityReport: 1 checks passed, against golden trace.>"


def test_a_notebook_shows_what_a_bundle_takes_gives_and_holds(forecast_bundle):
    html = Bundle(forecast_bundle)._repr_html_()
    assert "h_in: float32[2, batch, " in html
    assert 'left">model.onnx</td>' in html
    assert "checks passed, against PyTorch in float64 (forecaster.safetensors)." in html
