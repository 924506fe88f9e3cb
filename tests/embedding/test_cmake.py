"""How a client in C++ finds its runtimes: CMake runs here, compilers do not, so ONNX Runtime is two empty files."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import torch
from clients import need

import lstm_deploy
from lstm_deploy.embedding import generate

PREFIX = f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}"


@pytest.fixture(scope="module")
def bundle(forecaster, tmp_path_factory):
    """A forecaster in both formats that C++ runs."""
    path = tmp_path_factory.mktemp("both") / "b"
    lstm_deploy.export(forecaster, path, formats=("onnx", "torchscript"))
    return path


@pytest.fixture
def client(bundle, tmp_path, monkeypatch):
    """The folder of a client in C++."""
    need("cpp-torch")
    monkeypatch.delenv("ONNXRUNTIME_ROOT", raising=False)
    generate.embed(bundle, tmp_path / "client", "cpp")
    return tmp_path / "client"


def onnxruntime(folder, include="include", lib="lib"):
    for file in (folder / include / "onnxruntime_cxx_api.h", folder / lib / "libonnxruntime.so"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return folder


def configure(client, *options, code=0, **environment):
    """What `cmake -B build` says about programs, or all that it says where it fails."""
    done = subprocess.run(
        ["cmake", "-B", "build", *options],
        cwd=client,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    said = done.stdout + done.stderr
    return re.findall("^-- (client-.*)", said, re.MULTILINE) if code == 0 else " ".join(said.split())


LEFT_OUT = {
    "torch": "client-torch: left out, no LibTorch was found; name its folder with -DCMAKE_PREFIX_PATH=FOLDER",
    "onnx": "client-onnx: left out, no ONNX Runtime is named; name its folder with -DONNXRUNTIME_ROOT=FOLDER",
}


def test_a_runtime_that_is_named_after_a_run_without_is_found(client):
    said = configure(client, code=1)
    assert "name the folder of LibTorch with -DCMAKE_PREFIX_PATH=FOLDER or of ONNX Runtime with" in said
    root = onnxruntime(client.parent / "ort")
    with_onnx = f"client-onnx: with ONNX Runtime at {root}"
    assert configure(client, ONNXRUNTIME_ROOT="../ort") == [LEFT_OUT["torch"], with_onnx]
    assert configure(client) == [LEFT_OUT["torch"], with_onnx], "what was found stays, as a build configures again"
    with_torch = f"client-torch: with LibTorch {torch.__version__.partition('+')[0]} at {Path(torch.__file__).parent}"
    assert configure(client, PREFIX) == [with_torch, with_onnx]


def test_an_onnx_runtime_that_is_named_later_takes_the_place_of_the_first(client):
    first, second, third = (onnxruntime(client.parent / name) for name in ("first", "second", "third"))
    configure(client, PREFIX)
    for environment, option, wanted in (
        (first, None, first),
        (second, None, second),
        (second, third, third),
        (second, None, third),  # an option is remembered, as all of CMake's are
        (second, first, first),
    ):
        options = [f"-DONNXRUNTIME_ROOT={option}"] if option else []
        said = configure(client, *options, ONNXRUNTIME_ROOT=str(environment))
        assert said[1] == f"client-onnx: with ONNX Runtime at {wanted}"
        cached = (client / "build" / "CMakeCache.txt").read_text()
        assert f"ONNXRUNTIME_LIBRARY:FILEPATH={wanted}/lib/libonnxruntime.so" in cached


def test_a_folder_without_onnx_runtime_is_refused_and_not_remembered(client):
    said = configure(client, PREFIX, code=1, ONNXRUNTIME_ROOT=str(client))
    assert f"{client} does not hold ONNX Runtime" in said.replace("/ ", "/")
    assert configure(client)[1] == LEFT_OUT["onnx"]


@pytest.mark.parametrize("lib", ["lib", "lib/x86_64-linux-gnu"])
def test_an_onnx_runtime_that_a_package_manager_installed_is_found(client, lib):
    root = onnxruntime(client.parent / "usr", "include/onnxruntime", lib)
    said = configure(client, f"-DONNXRUNTIME_ROOT={root}", "-DCMAKE_LIBRARY_ARCHITECTURE=x86_64-linux-gnu")
    assert said[1] == f"client-onnx: with ONNX Runtime at {root}"


def test_another_libtorch_takes_the_place_of_the_first(client):
    configure(client, PREFIX)
    other = client.parent / "other"
    other.symlink_to(Path(torch.__file__).parent)
    for _ in range(2):
        assert configure(client, f"-DCMAKE_PREFIX_PATH={other}/share/cmake")[0].endswith(f" at {other}")
    assert f"TORCH_LIBRARY:FILEPATH={other}/lib/" in (client / "build" / "CMakeCache.txt").read_text()


def test_the_readme_says_what_the_model_was_proven_with_and_where_to_get_it(client, bundle):
    readme = (client / "README.md").read_text(encoding="utf-8")
    versions = lstm_deploy.Bundle(bundle).manifest.versions
    onnxruntime = versions.get("onnxruntime") or versions["onnxruntime-gpu"]
    for part in (
        f"LibTorch (the model was proven with {versions['torch'].partition('+')[0]})",
        f"ONNX Runtime (the model was proven with {onnxruntime})",
        "https://github.com/microsoft/onnxruntime/releases",
        "https://pytorch.org/get-started/locally/",
        "cmake -B build -DONNXRUNTIME_ROOT=FOLDER",
        "`library kineto` was not found is harmless",
    ):
        assert part in " ".join(readme.split())
