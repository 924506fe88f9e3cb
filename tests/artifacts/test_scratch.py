import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from lstm_deploy.artifacts.scratch import TEMPORARY, hold, scratch_file, scratch_folder, sweep

MAKERS = [scratch_folder, scratch_file]
needs_locks = pytest.mark.skipif(os.name == "nt", reason="no locks, so nothing is swept")
KILLED = """
import os, sys
from pathlib import Path
from lstm_deploy.artifacts import scratch
with scratch.{maker}("x.", Path(sys.argv[1])) as made:
    if made.is_dir():
        (made / "file").touch()
    os._exit(9)
"""


@pytest.mark.parametrize("maker", MAKERS)
def test_it_is_there_within_the_block_only(tmp_path, maker):
    with maker("x.", tmp_path) as made:
        assert os.listdir(tmp_path) == [made.name]
        if made.is_dir():
            (made / "file").touch()
    assert os.listdir(tmp_path) == []


@needs_locks
@pytest.mark.parametrize("maker", MAKERS)
def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path, maker):
    program = KILLED.format(maker=maker.__name__)
    assert subprocess.run([sys.executable, "-c", program, tmp_path], check=False).returncode == 9
    assert len(os.listdir(tmp_path)) == 1
    with maker("x.", tmp_path) as made:
        assert os.listdir(tmp_path) == [made.name]


@pytest.mark.parametrize("maker", MAKERS)
def test_what_is_in_use_stays(tmp_path, maker):
    with maker("x.", tmp_path) as first, maker("x.", tmp_path) as second:
        assert sorted(os.listdir(tmp_path)) == sorted([first.name, second.name])


@needs_locks
def test_what_is_renamed_stays_in_use(tmp_path):
    with scratch_folder("x.", tmp_path) as made:
        moved = made.rename(tmp_path / "x.12345678")
        sweep("x.", tmp_path)
        assert moved.exists()
        moved.rename(made)


def test_other_names_and_links_stay(tmp_path):
    (tmp_path / "mine").mkdir()
    for name in ("x.", "x.notes", "x.My-Notes", "y.abcdefgh", "x.abcdefghi"):
        (tmp_path / name).mkdir()
    (tmp_path / "x.linktome").symlink_to(tmp_path / "mine", target_is_directory=True)
    before = sorted(os.listdir(tmp_path))
    sweep("x.", tmp_path)
    assert sorted(os.listdir(tmp_path)) == before


@needs_locks
def test_a_pipe_of_that_name_does_not_stop_it(tmp_path):
    os.mkfifo(tmp_path / "x.abcdefgh")
    sweep("x.", tmp_path)
    assert os.listdir(tmp_path) == []


def test_the_default_place_is_the_temporary_directory():
    with scratch_folder() as folder:
        assert folder.parent == Path(tempfile.gettempdir())
        assert folder.name.startswith(TEMPORARY)


def test_where_nothing_can_be_locked_nothing_is_swept(tmp_path, monkeypatch):
    monkeypatch.setattr("lstm_deploy.artifacts.scratch.hold", _no_locks)
    (tmp_path / "x.abcdefgh").mkdir()
    with scratch_folder("x.", tmp_path) as made:
        assert sorted(os.listdir(tmp_path)) == sorted(["x.abcdefgh", made.name])
    assert os.listdir(tmp_path) == ["x.abcdefgh"]


@needs_locks
def test_what_is_swept_before_it_is_held_is_made_again(tmp_path, monkeypatch):
    made = []

    def swept_at_first(path):
        made.append(path)
        if len(made) == 1:
            path.rmdir()
        return hold(path)

    monkeypatch.setattr("lstm_deploy.artifacts.scratch.hold", swept_at_first)
    with scratch_folder("x.", tmp_path) as folder:
        assert folder.is_dir()
    assert len(set(made)) == 2


def _no_locks(path):
    raise OSError("no locks here")
