"""Pythons that have what an installation of ours with some extras brings, made of the packages of this one."""

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OURS = "lstm-deploy"


def requirements(name: str, extra: str) -> list[Requirement]:
    """What a package needs here; ours as in `pyproject.toml`, which may be newer than what is installed."""
    if name == OURS:
        listed = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    else:
        try:
            listed = distribution(name).requires or ()
        except PackageNotFoundError:
            listed = ()
    parsed = map(Requirement, listed)
    return [each for each in parsed if each.marker is None or each.marker.evaluate({"extra": extra})]


def brought_by(name: str, extras: Iterable[str], known: set[tuple[str, str]] | None = None) -> set[str]:
    """The names of the packages that are installed with one, itself included."""
    known = set() if known is None else known
    for extra in ("", *extras):
        if (name, extra) not in known:
            known.add((name, extra))
            for requirement in requirements(name, extra):
                brought_by(canonicalize_name(requirement.name), requirement.extras, known)
    return {found for found, _ in known}


def entries(name: str) -> Iterator[Path]:
    """The files and folders of a package in `site-packages`."""
    try:
        found = distribution(name)
    except PackageNotFoundError:  # as one for Windows, or the build for a CPU in the place of that for a GPU
        return
    for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
        if not top.endswith(".pth"):
            yield Path(str(found.locate_file(top)))


def python_with(extras: Iterable[str], folder: Path) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """A function that runs Python with what `lstm-deploy[extras]` brings, linked in `folder`, and nothing else.

    It takes arguments, standard input as `given` and the exit code to expect.
    """
    for name in brought_by(OURS, extras):
        for entry in entries(name):
            if not (folder / entry.name).exists():
                (folder / entry.name).symlink_to(entry)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}

    def call(*arguments: object, given: bytes = b"", code: int = 0) -> subprocess.CompletedProcess[bytes]:
        words = [sys.executable, "-S", *map(str, arguments)]
        result = subprocess.run(words, input=given, capture_output=True, env=environment, cwd=folder, check=False)
        assert result.returncode == code, result.stderr.decode()
        return result

    return call
