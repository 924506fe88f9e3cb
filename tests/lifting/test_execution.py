import pytest
import torch
from modules import ReturnsState
from torch import nn

import lstm_deploy
from lstm_deploy.lifting.execution import threads_for


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("hidden", "threads"), [(8, 1), (512, 3)])
def test_a_small_network_runs_on_one_thread_and_a_large_one_as_before(three_threads, hidden, threads):
    module = nn.Sequential(nn.Embedding(100_000, 20), nn.LSTM(20, hidden))
    with threads_for(module):
        assert torch.get_num_threads() == threads
    assert torch.get_num_threads() == 3


def test_export_and_validate_leave_the_number_of_threads(three_threads, tmp_path):
    module = ReturnsState().eval()
    bundle = lstm_deploy.export(module, tmp_path / "m", inputs={"x": "float32[batch,seq,3]"})
    assert lstm_deploy.validate(bundle, reference=module).passed
    assert torch.get_num_threads() == 3
