import errno
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from lstm_deploy.artifacts import replacement
from lstm_deploy.artifacts.replacement import exchange, replace_folder, restore
from lstm_deploy.artifacts.scratch import hold


@pytest.fixture(params=["in one step", "in two"])
def steps(request, monkeypatch):
    if request.param == "in two":
        monkeypatch.setattr(replacement, "exchange", lambda *_: False)


def folder(path: Path, text: str) -> Path:
    path.mkdir()
    (path / "text").write_text(text)
    return path


@pytest.mark.usefixtures("steps")
def test_a_folder_takes_the_place_of_another_or_of_none(tmp_path):
    for text in ("first", "second"):
        replace_folder(folder(tmp_path / ".b.partial-abcdefgh", text), tmp_path / "b")
        assert os.listdir(tmp_path) == ["b"]
        assert (tmp_path / "b/text").read_text() == text


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of Linux")
def test_linux_exchanges_in_one_step(tmp_path):
    first, second = folder(tmp_path / "ä 1", "first"), folder(tmp_path / "2", "second")
    if not exchange(first, second):
        pytest.skip("not on this disk")
    assert ((first / "text").read_text(), (second / "text").read_text()) == ("second", "first")
    assert not exchange(first, tmp_path / "none")


def test_an_error_between_two_steps_puts_the_old_folder_back(tmp_path, monkeypatch):
    monkeypatch.setattr(replacement, "exchange", lambda *_: False)
    folder(tmp_path / "b", "old")
    with pytest.raises(FileNotFoundError):
        replace_folder(tmp_path / ".b.partial-abcdefgh", tmp_path / "b")
    assert os.listdir(tmp_path) == ["b"]


def test_what_was_killed_between_two_steps_is_put_back(tmp_path):
    folder(tmp_path / ".b.old-abcdefgh", "old")
    restore(tmp_path / "b")
    assert (tmp_path / "b/text").read_text() == "old"


def test_nothing_is_put_back_over_what_is_there(tmp_path):
    folder(tmp_path / ".b.old-abcdefgh", "old")
    (tmp_path / "b").symlink_to("nowhere")
    restore(tmp_path / "b")
    assert sorted(os.listdir(tmp_path)) == [".b.old-abcdefgh", "b"]


@pytest.mark.skipif(os.name == "nt", reason="no locks")
def test_what_another_process_is_replacing_is_waited_for(tmp_path):
    old, new = folder(tmp_path / ".b.old-abcdefgh", "old"), folder(tmp_path / "new", "new")

    def finish():
        time.sleep(0.05)
        new.rename(tmp_path / "b")

    with hold(old):
        thread = threading.Thread(target=finish)
        thread.start()
        restore(tmp_path / "b")
        assert (tmp_path / "b/text").read_text() == "new"
        thread.join()


def test_without_locks_and_without_permission(tmp_path, monkeypatch):
    def fails(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    folder(tmp_path / ".b.old-abcdefgh", "old")
    monkeypatch.setattr(replacement, "hold", fails)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fails)
        restore(tmp_path / "b")
    assert not (tmp_path / "b").exists()
    restore(tmp_path / "b")
    assert (tmp_path / "b").exists()
