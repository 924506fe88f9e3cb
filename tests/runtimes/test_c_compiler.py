import os
import shutil

import pytest
from c_programs import NEEDS_CC

from lstm_deploy.errors import InputError
from lstm_deploy.runtimes import c_compiler, native
from lstm_deploy.runtimes.opening import cannot_run, open_runtime

pytestmark = NEEDS_CC


def test_c_from_elsewhere_is_not_run(stock, tmp_path, monkeypatch):
    """Compiling is nothing, but opening a library runs what it says; only what was built here is opened."""
    monkeypatch.setenv(c_compiler.CACHE, str(tmp_path / "another machine"))
    with pytest.raises(InputError, match="not compiled on this machine.*--trust-c"):
        open_runtime(stock)
    c_compiler.build(stock)
    assert open_runtime(stock).signature.streaming == "exact"


@pytest.mark.parametrize("suffix", [".c", ".h"])
def test_a_file_that_was_changed_since_is_not_run(suffix, stock, tmp_path):
    for file in (stock, stock.with_suffix(".h")):
        shutil.copy(file, tmp_path)
    path = tmp_path / stock.name
    native.NativeRuntime(path)
    changed = path.with_suffix(suffix)
    changed.write_text(changed.read_text() + "\n")
    with pytest.raises(InputError, match="not compiled on this machine"):
        native.NativeRuntime(path)


def test_without_a_compiler_the_error_says_so(stock, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv(c_compiler.CACHE, str(tmp_path / "empty"))
    with pytest.raises(InputError, match="no C compiler on PATH.*apt install gcc"):
        open_runtime(stock)
    assert "no C compiler" in cannot_run("c", "float32", "cpu")
    monkeypatch.setenv("CC", "tcc -O9")
    with pytest.raises(InputError, match="CC is 'tcc', which is not on PATH"):
        c_compiler.build(stock)


def test_unusable_environment_variables_are_one_sentence(stock, tmp_path, monkeypatch):
    monkeypatch.setenv("CC", "gcc '")
    with pytest.raises(InputError, match="is no command"):
        c_compiler.build(stock)
    monkeypatch.delenv("CC")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(c_compiler.CACHE, str(tmp_path / "file" / "below"))
    with pytest.raises(InputError, match="cannot be made for compiled C"):
        c_compiler.build(stock)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(c_compiler.CACHE, ".")
    c_compiler.build(stock)
    assert native.NativeRuntime(stock).signature.streaming == "exact"


def test_a_compiler_error_is_reported(stock, tmp_path):
    for file in (stock, stock.with_suffix(".h")):
        shutil.copy(file, tmp_path)
    path = tmp_path / stock.name
    path.write_text(path.read_text() + "\nnot C at all;\n")
    with pytest.raises(InputError, match=r"cannot compile .*stock.c \(.*error"):
        c_compiler.build(path)
    assert not any(name.startswith("tmp") for name in os.listdir(c_compiler.cache_folder()))


def test_a_missing_header_is_reported(stock, tmp_path):
    shutil.copy(stock, tmp_path)
    with pytest.raises(InputError, match=r"stock.h is missing"):
        open_runtime(tmp_path / stock.name)
