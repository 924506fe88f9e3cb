"""Guides whose programs need CMake, ONNX Runtime for C++ or a browser; `make test-embed` installs them."""

import os
from pathlib import Path

from clients import NODE, Client, need, onnxruntime_root
from pages import play, read


def test_a_classifier_in_cpp(tmp_path, monkeypatch):
    need("cpp-onnx")
    monkeypatch.chdir(tmp_path)
    Path("onnxruntime").symlink_to(Path(onnxruntime_root()).absolute())
    play(read("guides/cpp.md"), env={name: value for name, value in os.environ.items() if name != "ONNXRUNTIME_ROOT"})


def test_a_language_model_in_the_browser(tmp_path, text, monkeypatch):
    need("web")
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(text.read_text(encoding="utf-8"), encoding="utf-8")
    play(read("guides/browser.md"))
    Path("page/node_modules").symlink_to(NODE / "node_modules")
    seen = Client("web", None, tmp_path / "page").browse()
    assert seen["replay"] == "passed"
    assert seen["result"].startswith("The ")
    assert len(seen["result"]) == len("The ") + 40
