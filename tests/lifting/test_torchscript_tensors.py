import pytest
import torch
from torch import nn

from lstm_deploy.lifting.weight_choice import read_weights


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # all of torch.jit
def test_a_torchscript_archive_gives_its_weights(tmp_path):
    module = nn.Sequential(nn.Linear(2, 3))
    torch.jit.save(torch.jit.trace(module, torch.zeros(1, 2)), tmp_path / "m.pt")
    assert set(read_weights(tmp_path / "m.pt")) == {"0.weight", "0.bias"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # all of torch.jit
def test_code_in_a_torchscript_archive_never_runs(tmp_path, capfd):
    class Speaks(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.arange(6.0).reshape(2, 3).t())

        def forward(self, x: torch.Tensor):
            return x

        @torch.jit.export
        def __getstate__(self):
            return (self.weight, self.training)

        @torch.jit.export
        def __setstate__(self, state: tuple[torch.Tensor, bool]):
            print("code of the file runs")  # noqa: T201
            self.weight = state[0]
            self.training = state[1]

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.lstm = Speaks(), nn.LSTM(3, 4)

        def forward(self, x: torch.Tensor):
            return self.inner(x)

    module = Outer()
    torch.jit.save(torch.jit.script(module), tmp_path / "m.pt")
    weights = read_weights(tmp_path / "m.pt")
    assert capfd.readouterr().out == ""
    assert weights["lstm.weight_hh_l0"].equal(module.lstm.weight_hh_l0)
