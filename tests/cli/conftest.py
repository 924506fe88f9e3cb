import pytest


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path, monkeypatch):
    folder = tmp_path / "with space ü"
    folder.mkdir()
    monkeypatch.chdir(folder)
