import json

import pytest
from documents import document, row

from lstm_deploy.artifacts import Bundle
from lstm_deploy.benchmark.bench_report import BenchReport, read
from lstm_deploy.errors import InputError


def test_a_document_is_read_back(tmp_path):
    (tmp_path / "b.json").write_text(json.dumps(document(row())))
    assert read(tmp_path / "b.json")["results"][0]["p50_us"] == 12.345


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no result of lstm-deploy bench"),
        ("[1]", "no result of lstm-deploy bench"),
        pytest.param("[" * 100_000, "no result of lstm-deploy bench", id="deep"),
        ('{"schema_version": 1}', "no result of lstm-deploy bench"),
        (json.dumps(document()), "no result of lstm-deploy bench"),
        (json.dumps(document(row(round_medians_us=[1.0]))), "no result of lstm-deploy bench"),
        (json.dumps(document({"variant": "onnx"})), "no result of lstm-deploy bench"),
        (json.dumps(document(row(), environment={})), "no result of lstm-deploy bench"),
        (json.dumps(document(row(), schema_version=2)), "schema version 2"),
        (json.dumps(document(row(p50_us="fast", round_medians_us=["a", "b"]))), "no result of lstm-deploy bench"),
        (json.dumps(document(row(round_medians_us=[0.0, 0.0]))), "no result of lstm-deploy bench"),
    ],
)
def test_files_that_are_no_benchmark_are_refused(text, message, tmp_path):
    (tmp_path / "b.json").write_text(text)
    with pytest.raises(InputError, match=message):
        read(tmp_path / "b.json")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "b.json")


def test_a_mapping_is_held_to_the_same(tmp_path):
    assert read(document(row())).results[0]["variant"] == "onnx"
    with pytest.raises(InputError, match="This mapping is no result of"):
        read({})


def test_a_bundle_gives_its_latest_benchmark(bundle_copy):
    with pytest.raises(InputError, match=r"no benchmark in it; measure it with lstm-deploy bench"):
        read(bundle_copy)
    Bundle(bundle_copy).update(measurements=dict(BenchReport(document(row())).without_samples()))
    assert read(Bundle(bundle_copy)).results[0]["p50_us"] == 12.345


def test_a_result_is_a_dict_that_json_takes_and_a_table():
    report = BenchReport(document(row("eager", p50=100.0), row(), plan={"targets": ["mine"]}))
    assert json.loads(json.dumps(report)) == report
    frame = report.to_pandas()
    assert frame.variant.tolist() == ["eager", "onnx"]
    assert not {"samples_us", "round_medians_us"} & set(frame.columns)
    assert repr(report) == "<BenchReport of mine: 2 rows>"
    html = report._repr_html_()
    assert 'right">12.3</td>' in html
    assert "fastest: onnx" in html
