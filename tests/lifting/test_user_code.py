import re
import subprocess
import sys

import foreign_checkpoints as foreign
import pytest
import torch
from torch import nn

from lstm_deploy.errors import InputError
from lstm_deploy.lifting.sources import Origin, load
from lstm_deploy.lifting.user_code import instantiate, unpickle_module
from lstm_deploy.lifting.weight_choice import read_weights


def test_a_pickled_module_is_opened_only_by_the_function_for_trusted_files(tmp_path):
    torch.save(foreign.Net(), tmp_path / "m.pth")
    with pytest.raises(InputError, match="whole module"):
        read_weights(tmp_path / "m.pth")
    assert isinstance(unpickle_module(tmp_path / "m.pth"), foreign.Net)
    torch.save(nn.LSTM(3, 4).state_dict(), tmp_path / "s.pt")
    with pytest.raises(InputError, match="not a module"):
        unpickle_module(tmp_path / "s.pt")


def test_a_trusted_pickle_finds_the_classes_of_the_working_directory(tmp_path, monkeypatch):
    """As the script did that wrote it."""
    (tmp_path / "home_made.py").write_text("from torch import nn\n\nclass Net(nn.LSTM):\n    pass\n")
    code = "import torch, home_made; torch.save(home_made.Net(3, 4), 'm.pth')"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    assert type(unpickle_module(tmp_path / "m.pth")).__name__ == "Net"
    assert str(tmp_path) not in sys.path


def test_a_trusted_pickle_of_classes_that_are_not_there_is_told_what_helps(tmp_path):
    (tmp_path / "gone.py").write_text("from torch import nn\n\nclass Net(nn.LSTM):\n    pass\n")
    code = "import torch, gone; torch.save(gone.Net(3, 4), 'm.pth')"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    with pytest.raises(InputError, match=r"No module named 'gone'.*--model FILE\.py:Class.*leave out --trust-pickle"):
        unpickle_module(tmp_path / "m.pth")
    torch.save(nn.LSTM(3, 4).state_dict(), tmp_path / "m.pth")
    with pytest.raises(InputError, match="OrderedDict, not a module; leave out --trust-pickle"):
        unpickle_module(tmp_path / "m.pth")


def test_what_pytorch_says_of_the_way_in_which_a_class_is_written_is_not_repeated(tmp_path):
    """As of dropout in one layer, and of the old weight norm; warnings of the author's own stay."""
    lines = ["import warnings", "from torch import nn", "class Net(nn.Module):", "    def __init__(self):"]
    lines += ["        super().__init__()", "        self.lstm = nn.LSTM(3, 4, dropout=0.5)"]
    lines += ["        self.fc = nn.utils.weight_norm(nn.Linear(4, 2))", "        warnings.warn('mine')"]
    (tmp_path / "net.py").write_text("\n".join(lines))
    with pytest.warns(UserWarning) as said:
        instantiate(f"{tmp_path / 'net.py'}:Net", {})
    assert [str(warning.message) for warning in said] == ["mine"]


class Sized(nn.Module):
    def __init__(self, hidden, layers=1):
        super().__init__()
        self.lstm = nn.LSTM(3, hidden, layers, batch_first=True)

    def forward(self, x):
        return self.lstm(x)[0]


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ({"hiden": 4}, "Sized has no argument 'hiden', which --init gives; did you mean 'hidden'?"),
        ({}, "Sized also needs hidden; give --init '{\"hidden\": …}'; the file has hyper_parameters: hidden 4"),
        ({"hidden": 5}, r"lstm.weight_ih_l0 is [16, 3] in the file and [20, 3] in Sized"),
    ],
)
def test_arguments_of_a_class_that_are_wrong_are_named_beside_those_in_the_file(tmp_path, init, message):
    torch.save({"state_dict": Sized(4).state_dict(), "hyper_parameters": {"hidden": 4}}, tmp_path / "m.ckpt")
    with pytest.raises(InputError, match=re.escape(message)):
        load(Origin(path=tmp_path / "m.ckpt", model=f"{__file__}:Sized", init=init))
