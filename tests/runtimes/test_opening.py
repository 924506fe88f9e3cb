import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import lstm_deploy
from lstm_deploy.errors import InputError, ProviderError
from lstm_deploy.exporters import onnx as writer
from lstm_deploy.runtimes.opening import open_runtime


def test_unknown_providers_and_files_are_refused(forecast_bundle, tmp_path):
    with pytest.raises(InputError, match="'tpu' is not an execution provider"):
        open_runtime(forecast_bundle / "model.onnx", "tpu")
    with pytest.raises(InputError, match="does not exist"):
        open_runtime(tmp_path / "none.onnx")
    (tmp_path / "x.txt").touch()
    with pytest.raises(InputError, match=r"none of \.onnx, \.torchscript, \.c"):
        open_runtime(tmp_path / "x.txt")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("name", ["model.onnx", "model.torchscript"])
def test_cuda_without_a_gpu_is_an_error_with_its_remedy(forecast_bundle, name, capfd):
    with pytest.raises(ProviderError, match="--provider cpu"):
        open_runtime(forecast_bundle / name, "cuda")
    assert capfd.readouterr() == ("", "")


@pytest.fixture(scope="module")
def all_formats(tmp_path_factory):
    """A bundle for each format, that of ONNX with weights beside its file."""

    def exported(name):
        module, path = torch.nn.LSTM(4, 8, batch_first=True), tmp_path_factory.mktemp(name) / "b"
        return lstm_deploy.export(module, path, inputs={"x": "float32[batch,seq,4]"}, formats=(name,)).path

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "EXTERNAL_ABOVE", 0)
        bundles = {name: exported(name) for name in ("onnx", "torchscript")}
    return bundles | ({"native": exported("c")} if shutil.which("cc") else {})


FILES = {
    "model.onnx": "onnx",
    "model.onnx.data": "onnx",
    "model.torchscript": "torchscript",
    "model.c": "native",
    "model.h": "native",
}


@pytest.mark.parametrize("damage", ["changed", "cut off", "missing"])
@pytest.mark.parametrize("name", FILES)
def test_no_reader_runs_a_file_that_is_not_the_one_that_was_exported(all_formats, tmp_path, name, damage):
    if (runtime := FILES[name]) not in all_formats:
        pytest.skip("no C compiler")
    path = Path(shutil.copytree(all_formats[runtime], tmp_path / "b"))
    whole = (path / name).read_bytes()
    artifact = path / name.removesuffix(".data").replace(".h", ".c")
    feeds = {"x": np.zeros((1, 2, 4), np.float32)}
    lstm_deploy.open(path).run(feeds, runtime=runtime)
    lstm_deploy.open(artifact).run(feeds)
    (path / name).unlink()
    if damage != "missing":
        (path / name).write_bytes(whole[:-1] + (b"" if damage == "cut off" else bytes([whole[-1] ^ 1])))
    reason = "is not the file that was exported" if damage != "missing" else "is missing|does not exist"
    for use in (
        lambda: lstm_deploy.open(path).run(feeds, runtime=runtime),
        lambda: lstm_deploy.open(path).stream(runtime=runtime),
        lambda: lstm_deploy.open(artifact).stream(),
        lambda: open_runtime(artifact),
    ):
        with pytest.raises(InputError, match=reason) as told:
            use()
        assert name in str(told.value)


def test_a_rollout_that_was_changed_is_not_run(bundle_copy):
    feeds = {"x": np.full((1, 20, 4), 100.0), "steps": 2}
    model = lstm_deploy.open(bundle_copy)
    with (bundle_copy / "rollout.onnx").open("ab") as file:
        file.write(b"\n")
    with pytest.raises(InputError, match=r"rollout\.onnx is not the file that was exported"):
        model.rollout(feeds)
    model.run({"x": feeds["x"]})


def test_a_changed_file_runs_by_itself_and_where_it_is_told_that_it_may_be_changed(bundle_copy, tmp_path):
    with (bundle_copy / "model.onnx").open("ab") as file:
        file.write(b"\x0a\x00")
    open_runtime(bundle_copy / "model.onnx", even_changed=True).close()
    moved = (bundle_copy / "model.onnx").rename(tmp_path / "model.onnx")
    open_runtime(moved).close()
