import pytest

from lstm_deploy.benchmark import peaks
from lstm_deploy.benchmark.cpu_peaks import WORKING_SETS
from lstm_deploy.errors import LstmDeployError


def test_what_this_machine_can_do_is_measured():
    found = peaks.measure("cpu", 1)
    assert (found["provider"], found["threads"]) == ("cpu", 1)
    assert set(found["operations_per_s"]) == {"float32", "int8"}
    assert all(1e8 < rate < 1e14 for rate in found["operations_per_s"].values())
    sizes = [point["working_set"] for point in found["memory"]]
    assert sizes == sorted(sizes) == list(WORKING_SETS)
    assert all(1e8 < point["bytes_per_s"] < 1e13 for point in found["memory"])
    smallest, largest = found["memory"][0], found["memory"][-1]
    assert smallest["bytes_per_s"] > largest["bytes_per_s"]


def test_without_a_gpu_its_measurement_fails_in_a_sentence():
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(LstmDeployError, match="--no-roofline"):
        peaks.measure("cuda", 1)
