import pytest
import torch

from lstm_deploy.errors import InputError, ProviderError
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
