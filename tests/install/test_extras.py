"""Each extra of what `make dist` built, installed into an environment of its own: what it promises works.

`make test-install` runs this; it needs a package index, or pip's cache, and takes minutes.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from installations import PROJECT, ROOT

CONSTRAINTS = ROOT / "constraints.txt"
REFERENCE, CHECKPOINT = ROOT / "exported" / "reference", ROOT / "exported" / "reference.safetensors"
TINY = ["--data", "sine", "--task", "forecast", "--epochs", "1", "--hidden-size", "8", "--rows", "200"]
QUICK = ["--batch", "1", "--scenario", "stream", "--rounds", "9", "--no-roofline", "--no-record"]
HEAVY = {"torch", "onnxscript", "lightning", "optuna", "matplotlib", "pyarrow", "openvino"}


class Environment:
    """A new virtual environment, and a folder for what is made in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        self.variables = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        self.variables["PATH"] = os.pathsep.join([str(self.bin), os.environ["PATH"]])
        self.variables["PIP_CONSTRAINT"] = str(CONSTRAINTS)  # an open range brings gigabytes of PyTorch for CUDA

    def __call__(self, *words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a command as a user of the environment would."""
        command = [self.bin / str(words[0]), *map(str, words[1:])]
        result = subprocess.run(
            command, capture_output=True, text=True, env=self.variables, cwd=self.folder, check=False
        )
        assert result.returncode == code, f"{shlex.join(map(str, words))}: {result.stdout}{result.stderr}"
        return result

    def command(self, *words: object) -> str:
        return self("lstm-deploy", *words).stdout

    def install(self, requirement: str) -> None:
        self("pip", "install", "--quiet", "--disable-pip-version-check", requirement)
        self("pip", "check")

    def installed(self) -> set[str]:
        return {each["name"] for each in json.loads(self("pip", "list", "--format", "json").stdout)}

    def follow(self, *words: object) -> None:
        """Do what a command that lacks a package says, and run it again."""
        said = self("lstm-deploy", *words, code=2).stderr
        (remedy,) = re.findall(r"is not installed; (pip install .*)\.$", said, re.MULTILINE)
        self(*shlex.split(remedy), "--quiet")
        self("lstm-deploy", *words)


def built(suffix: str) -> Path:
    (file,) = (ROOT / "dist").glob(f"*{suffix}")  # make dist
    return file


@pytest.fixture
def environment(tmp_path):
    return Environment(tmp_path)


def test_the_wheel_holds_the_package_and_nothing_else():
    names = set(zipfile.ZipFile(built(".whl")).namelist())
    listed = subprocess.run(["git", "ls-files", "lstm_deploy"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {name for name in names if ".dist-info/" not in name} == set(listed.stdout.splitlines())
    assert built(".whl").name.startswith(f"lstm_deploy-{PROJECT['version']}-")


def test_the_source_archive_holds_no_part_of_the_tests():
    with tarfile.open(built(".tar.gz")) as archive:
        tops = {name.split("/")[1] for name in archive.getnames() if "/" in name}
    assert {"lstm_deploy", "pyproject.toml", "LICENSE", "README.md", "CHANGELOG.md", "constraints.txt"} <= tops
    assert not {"tests", "benchmarks", "docs", "exported"} & tops


def test_a_light_installation_runs_inspects_embeds_and_benches(environment):
    environment.install(str(built(".whl")))
    assert not environment.installed() & HEAVY
    assert environment.command("--version").strip() == PROJECT["version"]
    assert json.loads(environment.command("env", "--json"))["versions"]["lstm-deploy"] == PROJECT["version"]
    assert json.loads(environment.command("inspect", REFERENCE, "--json"))["validated"]
    rows = "open,high,low,close\n" + "101,103,100,102\n" * 30
    (environment.folder / "prices.csv").write_text(rows)
    assert "step," in environment.command("run", REFERENCE, "--input", "prices.csv")
    assert json.loads(environment.command("validate", REFERENCE, "--json", "--no-record"))["passed"]
    assert "onnx" in environment.command("bench", REFERENCE, *QUICK)
    for language, needs in json.loads(environment.command("embed", "--list", "--json")).items():
        if "onnx" in needs["formats"]:  # the others need C, which is not in this bundle
            environment.command("embed", REFERENCE, "--lang", language, "-o", language)
    assert "calls replayed" in environment("python", "python/client.py", "replay").stdout
    code = f"import lstm_deploy; print(lstm_deploy.open({str(REFERENCE)!r}).stream().step([[1.0] * 4]).shape)"
    assert environment("python", "-c", code).stdout.startswith("(1, ")


def test_the_remedies_of_missing_packages_work(environment):
    """Each installs an extra into what is there, and the same command then works."""
    environment.install(str(built(".whl")))
    environment.follow("bench", REFERENCE, *QUICK, "--plot", "p.png")
    environment.follow("export", CHECKPOINT, "-o", "b")
    environment.follow("train", *TINY, "-o", "t.safetensors")


def test_pytorch_exports_and_compares_with_it(environment):
    environment.install(f"{built('.whl')}[torch]")
    assert not environment.installed() & (HEAVY - {"torch", "onnxscript", "matplotlib"})
    environment.command("export", CHECKPOINT, "-o", "b")
    assert "PyTorch in float64" in environment.command("validate", "b", "--reference", CHECKPOINT)
    assert (environment.folder / "b" / "report" / "parity.png").is_file()


def test_training_trains(environment):
    environment.install(f"{built('.whl')}[train]")
    assert not environment.installed() & {"pyarrow", "openvino"}
    environment.command("train", *TINY, "-o", "t.safetensors", "--search", "2", "--search-epochs", "1")
    environment.command("export", "t.safetensors", "-o", "t")


def test_all_of_it_comes_from_the_source_archive_too(environment):
    environment.install(f"{built('.tar.gz')}[all]")
    assert environment.installed() >= HEAVY
    environment.command("train", *TINY, "-o", "t.safetensors")
    environment.command("export", "t.safetensors", "-o", "t")
    assert "openvino" in environment.command("bench", "t", *QUICK, "--baseline", "openvino")
    (column,) = json.loads(environment.command("inspect", "t", "--json"))["contract"]["task"]["features"]
    code = f"import pandas; pandas.DataFrame({{{column!r}: [0.1] * 100}}).to_parquet('s.parquet')"
    environment("python", "-c", code)
    assert "step," in environment.command("run", "t", "--input", "s.parquet", "--plot", "p.png")
