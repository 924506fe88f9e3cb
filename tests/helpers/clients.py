"""Generated clients, built and run with the tools of their language."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from filelock import FileLock
from onnx import numpy_helper

from lstm_deploy.embedding import generate
from lstm_deploy.embedding.languages import LANGUAGES

ROOT = Path(__file__).parents[2]
NODE = ROOT / "tests" / "embedding" / "node"
"""Where `make test-embed` installs npm packages."""
ONNXRUNTIME = NODE / "onnxruntime"
"""Where `make test-embed` installs ONNX Runtime for C++."""
STRICT = ("-Wall", "-Wextra", "-Wpedantic", "-Werror")
TARGETS = tuple(
    target
    for name, language in LANGUAGES.items()
    for target in ((f"{name}-torch", f"{name}-onnx") if language.sessions else (name,))
)
"""Languages, each with its runtimes where it has two."""
NEEDS = {
    "node": ("node", "npm"),
    "web": ("node", "npm", "chromium"),
    "cpp-torch": ("cmake", "g++"),
    "cpp-onnx": ("cmake", "g++"),
    "c": ("cc",),
    "go": ("go", "cc"),
    "rust": ("cargo", "cc"),
}
PACKAGES = {
    "node": "nodejs",
    "npm": "npm",
    "cc": "gcc",
    "chromium": "chromium",
    "cmake": "cmake",
    "g++": "g++",
    "go": "golang-go",
    "cargo": "cargo",
}


def need(target):
    """Skip the test if tools are missing, and name them."""
    if missing := [PACKAGES[tool] for tool in NEEDS.get(target, ()) if not shutil.which(tool)]:
        pytest.skip(f"needs {' and '.join(missing)}: apt install {' '.join(missing)}")
    if target in ("node", "web") and not (NODE / "node_modules").is_dir():
        pytest.skip("needs packages from npm: make test-embed installs them")
    if target == "cpp-onnx" and not onnxruntime_root():
        pytest.skip("needs ONNX Runtime for C++: set ONNXRUNTIME_ROOT, or make test-embed where there is apt")


def onnxruntime_root():
    """The folder of ONNX Runtime for C++, if there is one."""
    given = os.environ.get("ONNXRUNTIME_ROOT") or (ONNXRUNTIME if (ONNXRUNTIME / "include").is_dir() else None)
    return str(given) if given else None


def once(factory, name, make):
    """The folder `name`, which `make` fills given its path: once for all processes of a test run."""
    base = factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    folder = shared / "shared" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    done = folder.with_name(f"{name}.done")
    with alone(folder):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


def alone(folder):
    """A lock on a folder between processes."""
    return FileLock(folder.with_name(f"{folder.name}.lock"))


def language_of(target):
    return target.partition("-")[0]


def format_of(target):
    """The format of the artifact that the client of a target runs."""
    return "torchscript" if target == "cpp-torch" else LANGUAGES[language_of(target)].formats[-1]


class Client:
    """A client in a folder, generated if the folder does not exist.

    With `factory`, pytest's factory of temporary folders, LibTorch's headers are compiled once for all clients.
    """

    def __init__(self, target, bundle, folder, precision="float32", factory=None):
        need(target)
        self.target, self.folder, self.factory = target, Path(folder), factory
        if self.folder.exists():
            return
        generate.embed(bundle, folder, language_of(target), precision=precision)
        if target in ("node", "web"):
            (self.folder / "node_modules").symlink_to(NODE / "node_modules")

    def change(self, file, *changes):
        """Replace pieces of a file, each of which occurs once."""
        path = self.folder / file
        text = path.read_text(encoding="utf-8")
        for old, new in changes:
            assert text.count(old) == 1, (old, text)
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")

    def build(self):
        """Compile it, if the language is compiled, with warnings as errors."""
        match self.target:
            case "c":
                sources = sorted(file.name for file in self.folder.glob("*.c"))
                self.call("cc", "-std=c99", "-O1", *STRICT, *sources, "-o", "client", "-lm")
            case "go":
                self.call("go", "vet", ".")
                assert self.call("gofmt", "-l", ".") == ""
                self.call("go", "build", "-o", "client", ".")
            case "rust":
                strict = {**os.environ, "RUSTFLAGS": "-D warnings", "CARGO_NET_OFFLINE": "true"}
                self.call("cargo", "build", "--release", "--quiet", env=strict)
            case "cpp-torch" | "cpp-onnx":
                where = {**os.environ, "ONNXRUNTIME_ROOT": ""}
                if self.target == "cpp-onnx":
                    where["ONNXRUNTIME_ROOT"] = onnxruntime_root()
                prefix = torch.utils.cmake_prefix_path if self.target == "cpp-torch" else self.folder
                configure = ["cmake", "-B", "build", "-DCMAKE_BUILD_TYPE=None", f"-DCMAKE_PREFIX_PATH={prefix}"]
                configure.append(f"-DCMAKE_CXX_FLAGS=-O0 {' '.join(STRICT)}")
                if self.target == "cpp-torch" and self.factory and shutil.which("clang++"):
                    where["CXX"] = "clang++"
                    self.call(*configure, env=where)
                    headers = once(self.factory, "torch_headers", self.precompile)
                    # Of the type of build that is none, so that CMake's own trials of the compiler go without.
                    configure.append(f"-DCMAKE_CXX_FLAGS_NONE=-include-pch {headers / 'script.pch'}")
                self.call(*configure, env=where)
                self.call("cmake", "--build", "build", "-j2")
        return self

    def precompile(self, folder):
        """Precompile LibTorch's headers with this client's flags, which saves 15 seconds for each program."""
        lines = (self.folder / "build/CMakeFiles/client-torch.dir/flags.make").read_text(encoding="utf-8").splitlines()
        make = dict(line.split(" = ", 1) for line in lines if line.startswith("CXX_") and " = " in line)
        flags = [flag for kind in ("DEFINES", "INCLUDES", "FLAGS") for flag in shlex.split(make.get(f"CXX_{kind}", ""))]
        (folder / "script.hpp").write_text("#include <torch/script.h>\n", encoding="utf-8")
        self.call("clang++", *flags, "-x", "c++-header", str(folder / "script.hpp"), "-o", str(folder / "script.pch"))

    def run(self, *words, code=0):
        """Its standard output, or what it prints as an error if `code` is not 0."""
        return self.call(*self.command, *words, code=code)

    def replay(self, *words):
        """What it prints about the golden trace, and whether that passed."""
        if self.target == "web":
            seen = self.browse()
            return seen["status"] + seen["error"], seen["replay"] == "passed"
        done = self.call(*self.command, "replay", *words, code=None)
        assert done.returncode in (0, 1), done.stderr
        return done.stdout, done.returncode == 0

    def browse(self, *options):
        """What a browser shows on the page."""
        where = {**os.environ, "NODE_FOLDER": str(NODE), "CHROMIUM": shutil.which("chromium")}
        seen = json.loads(self.call("node", str(NODE / "browser.mjs"), str(self.folder), *options, env=where))
        assert seen["elsewhere"] == [], "the page asked for something from another place"
        assert seen["problems"] == []
        return seen

    @property
    def command(self):
        return {
            "python": [sys.executable, "client.py"],
            "node": ["node", "main.mjs"],
            "c": ["./client"],
            "go": ["./client"],
            "rust": ["target/release/client"],
            "cpp-torch": ["build/client-torch"],
            "cpp-onnx": ["build/client-onnx"],
        }[self.target]

    def call(self, *command, code=0, env=None, text=True):
        done = subprocess.run(
            command, cwd=self.folder, capture_output=True, encoding="utf-8" if text else None, env=env, check=False
        )
        if code is None:
            return done
        assert done.returncode == code, (command, done.stdout, done.stderr)
        return done.stdout if code == 0 else done.stderr


def retrain(path):
    """Change recurrent weights in an ONNX file: another model with the same names and shapes."""
    model = onnx.load(path)
    weights = next(each for each in model.graph.initializer if ".R_l0" in each.name)
    weights.CopyFrom(numpy_helper.from_array(np.roll(numpy_helper.to_array(weights), 1, -1), weights.name))
    onnx.save(model, path)
