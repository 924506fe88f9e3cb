"""The same source gives the same files, byte for byte, in any process."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file

NET = """
import torch
from torch import nn


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.names = {"a", "b", "c", "d"}
        self.before = nn.Linear(4, 8)
        self.lstm = nn.LSTM(8, 12, 2, batch_first=True, proj_size=6)
        self.heads = nn.ModuleDict({name: Head() for name in sorted(self.names)})

    def forward(self, x):
        y, _ = self.lstm(torch.tanh(self.before(x)))
        y = torch.where(y > 0.9, torch.zeros_like(y), y)
        return self.heads["a"](y), sum(head(y) for head in self.heads.values())
"""
"""Modules of one class in several places, constants that are folded, and a projection, whose inverse is computed."""
EXPORT = """
import sys
from pathlib import Path
from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.exporters.c.writer import export_c
from lstm_deploy.exporters.onnx import export_onnx
from lstm_deploy.exporters.torchscript import export_torchscript
from lstm_deploy.lifting import sources

source, *targets = sys.argv[1:]
for target in map(Path, targets):
    target.mkdir()
    inputs = (TensorSpec.parse("x:float32[batch,seq,4]"),)
    origin = sources.Origin(path=Path(source, "net.safetensors"), model=f"{source}/net.py:Net", inputs=inputs)
    lifted = sources.load(origin).lifted
    export_onnx(lifted, target / "model.onnx")
    export_torchscript(lifted, target / "model.torchscript")
    export_c(target / "model.onnx", target / "model.c", "net")
"""
FILES = ("model.onnx", "model.torchscript", "model.c", "model.h")
PYTHONS = [shutil.which(f"python3.{minor}") for minor in range(11, 14) if minor != sys.version_info[1]]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The same source in two folders; its weights are drawn by numpy, which draws the same on any CPU."""
    folders = [tmp_path_factory.mktemp(name) for name in ("one", "another")]
    namespace = {}
    exec(NET, namespace)
    rng = np.random.default_rng(0)
    weights = {
        name: torch.from_numpy(rng.standard_normal(tuple(value.shape)).astype(np.float32))
        for name, value in namespace["Net"]().state_dict().items()
    }
    for folder in folders:
        (folder / "net.py").write_text(NET)
        save_file(weights, folder / "net.safetensors")
    return folders


def exported(source, python, *targets, **variables):
    """The digests of what another process writes, one after the other."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **variables}
    command = [python, "-W", "ignore", "-c", EXPORT, str(source), *map(str, targets)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    return [{name: hashlib.sha256((target / name).read_bytes()).hexdigest() for name in FILES} for target in targets]


def test_the_same_source_gives_the_same_bytes_in_any_process_and_place(places, tmp_path):
    once, again = exported(places[0], sys.executable, tmp_path / "a", tmp_path / "b", PYTHONHASHSEED="1")
    assert once == again, "a second time in one process"
    plain = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}
    (elsewhere,) = exported(places[1], sys.executable, tmp_path / "c", PYTHONHASHSEED="2", **plain)
    assert once == elsewhere, "another hash seed, folder and kernels"
    assert str(places[0]).encode() not in (tmp_path / "a" / "model.torchscript").read_bytes(), "no paths of the user's"


@pytest.mark.parametrize("python", list(filter(None, PYTHONS)))
def test_another_python_gives_the_same_bytes(places, tmp_path, python):
    versions = "import torch, onnx, onnxscript, lightning, safetensors; print(torch.__version__, onnx.__version__)"
    there = subprocess.run([python, "-c", versions], capture_output=True, text=True, check=False)
    if there.returncode or there.stdout != f"{torch.__version__} {onnx.__version__}\n":
        pytest.skip(f"{python} has not the same packages")
    (ours,) = exported(places[0], sys.executable, tmp_path / "ours")
    (theirs,) = exported(places[0], python, tmp_path / "theirs")
    assert ours == theirs
