"""The same source gives the same files, byte for byte, in any process."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.exporters.c.writer import export_c
from lstm_deploy.exporters.onnx import export_onnx
from lstm_deploy.exporters.torchscript import export_torchscript
from lstm_deploy.lifting import sources

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
FILES = ("model.onnx", "model.torchscript", "model.c", "model.h")
ELSEWHERE = """
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from test_same_bytes import export

export(*map(Path, sys.argv[2:]))
"""
"""Another process writes the same files, and leaves their digests to the test."""
VERSIONS = (
    "import lightning, onnx, onnxscript, pytest, safetensors, torch; "
    "print(torch.__version__.partition('+')[0], onnx.__version__)"  # whether PyTorch is built for CUDA changes nothing
)
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


def export(source, target):
    """Write the artifacts of the network in one folder to another."""
    inputs = (TensorSpec.parse("x:float32[batch,seq,4]"),)
    origin = sources.Origin(path=source / "net.safetensors", model=f"{source}/net.py:Net", inputs=inputs)
    lifted = sources.load(origin).lifted
    target.mkdir()
    export_onnx(lifted, target / "model.onnx")
    export_torchscript(lifted, target / "model.torchscript")
    export_c(target / "model.onnx", target / "model.c", "net")


def digests(target):
    return {name: hashlib.sha256((target / name).read_bytes()).hexdigest() for name in FILES}


def exported_elsewhere(python, source, target, **variables):
    """The digests of what a process of its own writes."""
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": str(here.parents[1]), **variables}
    command = [python, "-W", "ignore", "-c", ELSEWHERE, *map(str, (here, source, target))]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    return digests(target)


@pytest.fixture(scope="module")
def ours(places, tmp_path_factory):
    """The digests of what this process writes, and where."""
    target = tmp_path_factory.mktemp("ours") / "files"
    export(places[0], target)
    return digests(target), target


def test_the_same_source_gives_the_same_bytes_in_any_process_and_place(places, ours, tmp_path):
    once, target = ours
    export(places[0], tmp_path / "again")
    assert digests(tmp_path / "again") == once, "a second time in one process"
    other = {"PYTHONHASHSEED": "1", "ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}
    elsewhere = exported_elsewhere(sys.executable, places[1], tmp_path / "elsewhere", **other)
    assert elsewhere == once, "another hash seed, folder and kernels"
    assert str(places[0]).encode() not in (target / "model.torchscript").read_bytes(), "no paths of the user's"


@pytest.mark.parametrize("python", list(filter(None, PYTHONS)))
def test_another_python_gives_the_same_bytes(places, ours, tmp_path, python):
    versions = [
        subprocess.run([each, "-c", VERSIONS], capture_output=True, text=True, check=False).stdout
        for each in (sys.executable, python)
    ]
    if versions[0] != versions[1]:
        pytest.skip(f"{python} has not the same packages")
    assert exported_elsewhere(python, places[0], tmp_path / "theirs") == ours[0]
