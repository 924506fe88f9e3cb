"""Clients: small programs around an artifact, written from its contract, each with a golden trace to replay."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from lstm_deploy.artifacts import Artifact, Bundle, new_file_mode, weights_file
from lstm_deploy.embedding.c_terms import c_terms, cpp_terms
from lstm_deploy.embedding.filters import FILTERS
from lstm_deploy.embedding.terms import terms
from lstm_deploy.embedding.trace import trace
from lstm_deploy.errors import InputError

TRACE = "golden.txt"
FILE = re.compile(r"model(\.int8)?\.(onnx|torchscript|c)")
"""Names of artifacts. A manifest may be a stranger's, and of some names, as numpy.py, a copy would be run."""
PRECISIONS = ("float32", "int8")


class Language(NamedTuple):
    """What is written for one language."""

    formats: tuple[str, ...]
    """Of the artifacts that go with the program: those of these that the bundle has, one at least."""
    templates: tuple[str, ...]
    """Files, some below the folder of another language that has the same."""
    needs: str
    """What has to be installed to build and run it."""
    run: str
    """The command that replays the golden trace, there."""
    package: str = ""
    """The runtime's name where it is imported."""
    sessions: Mapping[str, str] = {}
    """A file for each format that the bundle has."""


LANGUAGES = {
    "python": Language(
        ("onnx",),
        ("python/client.py", "python/README.md"),
        "Python, numpy, onnxruntime",
        "python client.py replay",
    ),
    "node": Language(
        ("onnx",),
        ("js/client.mjs", "js/client.d.mts", "node/main.mjs", "node/package.json", "node/README.md"),
        "Node 18 or later, onnxruntime-node from npm",
        "npm install && node main.mjs replay",
        "onnxruntime-node",
    ),
    "web": Language(
        ("onnx",),
        ("js/client.mjs", "js/client.d.mts", "web/index.html", "web/package.json", "web/README.md"),
        "a browser, onnxruntime-web from npm, any server of files",
        "npm install && python3 -m http.server 8000",
        "onnxruntime-web",
    ),
    "cpp": Language(
        ("torchscript", "onnx"),
        ("cpp/client.hpp", "cpp/client.cpp", "cpp/main.cpp", "cpp/CMakeLists.txt", "cpp/README.md"),
        "a C++20 compiler, CMake, LibTorch (an installed torch has it) or ONNX Runtime",
        "cmake -B build -DCMAKE_PREFIX_PATH=... && cmake --build build (README.md says all)",
        sessions={"torchscript": "cpp/session_torch.cpp", "onnx": "cpp/session_onnx.cpp"},
    ),
    "c": Language(
        ("c",),
        ("c/main.c", "c/Makefile", "c/README.md"),
        "a C compiler and make",
        "make && ./client replay",
    ),
    "go": Language(
        ("c",),
        ("go/client.go", "go/main.go", "go/go.mod", "go/README.md"),
        "Go 1.19 or later, a C compiler",
        "go build -o client . && ./client replay",
    ),
    "rust": Language(
        ("c",),
        ("rust/client.rs", "rust/main.rs", "rust/build.rs", "rust/Cargo.toml", "rust/README.md"),
        "Rust 1.63 or later, a C compiler",
        "cargo build --release && target/release/client replay",
    ),
}


def embed(
    source: Bundle | str | os.PathLike[str],
    output: str | os.PathLike[str],
    language: str,
    *,
    precision: str = "float32",
    force: bool = False,
) -> list[str]:
    """Write a client of a bundle's model into the folder `output`; the names of its files.

    Raises `InputError` for a language or precision that there is none for, for a bundle whose files are not those that
    were exported, and, without `force`, where a file would be replaced. Other files in the folder stay as they are.
    """
    if language not in LANGUAGES:
        raise InputError(f"There is no client in {language!r}; use one of {', '.join(LANGUAGES)}.")
    if precision not in PRECISIONS:
        raise InputError(f"There is no client in {precision!r}; use {' or '.join(PRECISIONS)}.")
    bundle, chosen, folder = source if isinstance(source, Bundle) else Bundle(source), LANGUAGES[language], Path(output)
    artifacts = _artifacts(bundle, chosen.formats, precision)
    if language == "web" and artifacts[0].weights:
        raise InputError(f"{artifacts[0].path} is too large for a browser, its weights lie beside it; use node.")
    traces = {a.format: TRACE if len(artifacts) == 1 else f"golden.{a.format}.txt" for a in artifacts}
    known = {**terms(bundle, artifacts), "package": chosen.package, "traces": traces}
    if "c" in chosen.formats:
        known["c"] = c_terms(bundle.file(artifacts[0]), artifacts[0].weights)
    if language == "cpp":
        known["cpp"] = cpp_terms(bundle.signature, known)
    files: dict[str, str | Path] = {traces[a.format]: trace(bundle, a) for a in artifacts}
    for artifact in artifacts:
        files |= {name: bundle.path / name for name, _ in artifact.files}
    environment = Environment(
        loader=PackageLoader("lstm_deploy.embedding"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
        autoescape=lambda name: name is not None and ".html" in name,
    )
    environment.filters |= FILTERS
    sessions = [chosen.sessions[artifact.format] for artifact in artifacts if chosen.sessions]
    for name in (*chosen.templates, *sessions):
        files[name.partition("/")[2]] = environment.get_template(f"{name}.jinja").render(known)
    _write(folder, files, force=force)
    return sorted(files)


def needs_vnni(source: str | os.PathLike[str], files: Iterable[str]) -> bool:
    """Whether one of the files that `embed` wrote is an artifact of a bundle for CPUs with VNNI alone."""
    lowered = [artifact for artifact in Bundle(source).manifest.artifacts if artifact.evidence]
    return any(a.path in files and a.evidence and a.evidence.settings.get("cpus") == "with VNNI" for a in lowered)


def _artifacts(bundle: Bundle, formats: Iterable[str], precision: str) -> list[Artifact]:
    """The artifacts that a program is written around; raises `InputError` where there is none, or it was changed."""
    found = [a for a in bundle.manifest.artifacts if a.format in formats and a.precision == precision]
    if not found:
        wanted, there = " or ".join(formats), ", ".join(f"{a.format} {a.precision}" for a in bundle.manifest.artifacts)
        more = "" if precision == "float32" else f" --quantize {precision}"
        raise InputError(
            f"{bundle.path} has no {wanted} artifact in {precision} (it has {there}); export the model with "
            f"--format {next(iter(formats))}{more}."
        )
    for artifact in found:
        bundle.file(artifact)
        path = Path(artifact.path)
        beside = {
            artifact.path,
            weights_file(path).name,
            *([path.with_suffix(".h").name] if path.suffix == ".c" else []),
        }
        for name, _ in artifact.files:
            if not FILE.fullmatch(artifact.path) or name not in beside:
                raise InputError(f"The manifest of {bundle.path} names {name!r}, no file of an export; do not use it.")
        if changed := bundle.changed(artifact):
            raise InputError(f"{changed[0]} of {bundle.path} was changed since its export; export the model again.")
    return sorted(found, key=lambda artifact: list(formats).index(artifact.format))


def _write(folder: Path, files: dict[str, Any], *, force: bool) -> None:
    """Put files into a folder, all or none; a `Path` is copied."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is not a directory; choose another output with -o.")
    there = [name for name in files if (folder / name).exists()]
    if there and not force:
        raise InputError(
            f"{folder / there[0]} already exists; replace it with --force or choose another output with -o."
        )
    if inside := [name for name in there if (folder / name).is_dir()]:
        raise InputError(f"{folder / inside[0]} is a directory; choose another output with -o.")
    existed = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder))
    try:
        for name, content in files.items():
            if isinstance(content, Path):
                shutil.copyfile(content, partial / name)
            else:
                (partial / name).write_text(content, encoding="utf-8", newline="\n")
            (partial / name).chmod(0o666 & new_file_mode())
        for name in files:
            (partial / name).replace(folder / name)
    except BaseException:
        if not existed:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
