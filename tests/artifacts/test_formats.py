import pytest

from lstm_deploy.artifacts.formats import FORMATS, SUFFIXES
from lstm_deploy.exporters.pipeline import WRITERS
from lstm_deploy.exporters.plan import DEFAULT_FORMATS
from lstm_deploy.runtimes.opening import RUNTIMES, cannot_run
from lstm_deploy.runtimes.providers import PROVIDERS


def test_names_and_suffixes_tell_formats_apart():
    assert set(DEFAULT_FORMATS) <= set(FORMATS)
    assert [each.name for each in SUFFIXES.values()] == list(FORMATS)


def test_every_format_has_a_runtime_and_a_writer():
    assert set(RUNTIMES) == set(FORMATS)
    assert {*WRITERS, "c"} == set(FORMATS)
    assert [loader.runtime for loader in RUNTIMES.values()] == ["onnx", "native", "torchscript"]


def test_every_format_runs_on_providers_that_there_are():
    for each in FORMATS.values():
        assert "cpu" in each.providers
        assert set(each.providers) <= set(PROVIDERS)


@pytest.mark.parametrize(
    ("format_", "precision", "name"),
    [
        ("onnx", "float32", "model.onnx"),
        ("onnx", "float16", "model.fp16.onnx"),
        ("onnx", "int8", "model.int8.onnx"),
        ("torchscript", "int8", "model.int8.torchscript"),
        ("c", "float32", "model.c"),
    ],
)
def test_files_are_named_after_their_format_and_precision(format_, precision, name):
    assert FORMATS[format_].file_name(precision) == name


def test_a_format_of_a_later_release_is_left_out():
    assert cannot_run("gguf", "float32", "cpu") == "this release does not know the format gguf"
