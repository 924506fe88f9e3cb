import errno
import os

import pytest

from lstm_deploy.artifacts.files import atomic_write, sha256


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
