import pytest

from lstm_deploy.benchmark import peaks
from lstm_deploy.benchmark.cpu_peaks import WORKING_SETS
from lstm_deploy.errors import LstmDeployError


def test_the_peak_rates_of_this_machine_are_measured():
    peak_rates = peaks.measure("cpu", 1)
    assert (peak_rates["provider"], peak_rates["threads"]) == ("cpu", 1)
    assert set(peak_rates["operations_per_s"]) == {"float32", "int8"}
    assert all(1e8 < rate < 1e14 for rate in peak_rates["operations_per_s"].values())
    sizes = [point["working_set"] for point in peak_rates["memory"]]
    assert sizes == sorted(sizes) == list(WORKING_SETS)
    assert all(1e8 < point["bytes_per_s"] < 1e13 for point in peak_rates["memory"])
    smallest, largest = peak_rates["memory"][0], peak_rates["memory"][-1]
    assert smallest["bytes_per_s"] > largest["bytes_per_s"]


def test_without_a_gpu_its_measurement_fails_with_a_remedy():
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(LstmDeployError, match="--no-roofline"):
        peaks.measure("cuda", 1)
