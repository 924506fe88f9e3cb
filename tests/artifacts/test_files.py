import errno
import os
from pathlib import Path

import pytest

from lstm_deploy.artifacts.bundle import Bundle
from lstm_deploy.artifacts.files import as_path, atomic_write, check_output, several, sha256
from lstm_deploy.errors import InputError


def test_a_file_appears_whole(tmp_path):
    with atomic_write(tmp_path / "new" / "a ü.txt") as file:
        file.write_text("whole")
        assert not (tmp_path / "new/a ü.txt").exists()
    assert (tmp_path / "new/a ü.txt").read_text() == "whole"


def test_a_full_disk_leaves_the_old_file(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(OSError, match="No space"), atomic_write(tmp_path / "a") as file:
        file.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_a_file_is_as_readable_as_other_new_files(tmp_path):
    (tmp_path / "plain").touch()
    with atomic_write(tmp_path / "a") as file:
        file.write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_the_digest_is_sha256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_directory_is_refused_and_what_leads_elsewhere_is_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="folder is a directory; give a file name"), atomic_write(tmp_path / "folder"):
        pass
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "link").symlink_to("precious")
    (tmp_path / "to folder").symlink_to("folder", target_is_directory=True)
    names = ["link", "to folder"]
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        names.append("pipe")
    for name in names:
        with atomic_write(tmp_path / name) as file:
            file.write_text("new")
        assert (tmp_path / name).read_text() == "new"
    assert (tmp_path / "precious").read_text() == "precious"
    assert list((tmp_path / "folder").iterdir()) == []


def test_an_error_names_the_file_that_the_user_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError) as told, atomic_write(tmp_path / "out.csv") as partial:
        partial.unlink()
    assert told.value.filename == str(tmp_path / "out.csv")


def test_where_nothing_can_be_written_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    check_output(tmp_path / "file")
    check_output(tmp_path / "deep/er/new", None, tmp_path / "none")
    check_output(tmp_path / "file", tmp_path / "other")
    for path, message in (
        (tmp_path, "is a directory"),
        (tmp_path / "file/x", "file is not a directory"),
        (tmp_path / "file/x/y", "file is not a directory"),
        (tmp_path / "dangling/x", "is not a directory"),
    ):
        with pytest.raises(InputError, match=message):
            check_output(path)
    with pytest.raises(InputError, match="is the file that is read"):
        check_output(tmp_path / "file", None, tmp_path / "file")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match="cannot be written to"):
        check_output(tmp_path / "new")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with a name")
def test_a_pipe_has_no_digest(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="not a file that can be read twice"):
        sha256(tmp_path / "pipe")


def test_a_path_is_a_text_a_path_or_a_bundle(forecast_bundle):
    bundle = Bundle(forecast_bundle)
    assert as_path("a") == as_path(Path("a")) == Path("a")
    assert as_path(bundle) == forecast_bundle
    assert os.fspath(bundle) == str(forecast_bundle)


class Module:
    state_dict = None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "not None; give a text"),
        ("", "not ''"),
        (b"a", "not b'a'"),
        (5, "not 5"),
        (["a"], "not an instance of list"),
        (Module(), "not an instance of Module; lstm_deploy.export makes a bundle"),
        (Module, "not the class Module; lstm_deploy.export"),
    ],
)
def test_what_is_no_path_is_refused_with_what_to_give(given, message):
    with pytest.raises(InputError, match=message):
        as_path(given)


def test_one_text_or_path_is_one_and_not_its_letters():
    assert several("ab") == ("ab",)
    assert several(Path("ab")) == (Path("ab"),)
    assert several(["a", "b"]) == ("a", "b")
    assert several(5) == (5,)
