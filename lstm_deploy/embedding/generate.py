"""Clients: small programs around an artifact, generated from its contract, each with a golden trace to replay."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from lstm_deploy.artifacts import (
    FORMATS,
    Artifact,
    Bundle,
    as_path,
    check_parent,
    new_file_mode,
    proof,
    scratch_folder,
    template_environment,
    unproven,
    weights_file,
)
from lstm_deploy.contract import CInterface
from lstm_deploy.embedding.c_variables import c_variables
from lstm_deploy.embedding.filters import FILTERS
from lstm_deploy.embedding.languages import LANGUAGES, Language
from lstm_deploy.embedding.trace import trace
from lstm_deploy.embedding.variables import model_variables
from lstm_deploy.errors import InputError, did_you_mean

TRACE = "golden.txt"
FILE = re.compile(r"model(\.int8)?\.(onnx|torchscript|c)")
"""Names that artifacts may have: an untrusted manifest could name a file that would be run, such as numpy.py."""
PRECISIONS = ("float32", "int8")
RECORD = "embedded.json"
"""The file of a client with the SHA-256 of each text that was generated, by which changed ones are known."""
OURS = re.compile(r"client\.|session_")
"""Beginnings of the names of files that hold the contract: beside another model they could be wrong without a word, so
they are never kept. What else people changed is theirs."""


class Written(NamedTuple):
    """What `write_client` did."""

    files: list[str]
    """The names of the files that were written."""
    kept: list[str]
    """The names of those that were not, because they are there and somebody changed them."""


def embed(
    source: Bundle | str | os.PathLike[str],
    output: str | os.PathLike[str],
    language: str,
    *,
    precision: str = "float32",
    force: bool = False,
) -> list[str]:
    """Write a client of a bundle's model into the folder `output`, and return the names of the files written.

    Raises `InputError` for an unsupported language or precision, for artifacts that are not those that were exported
    or have failed `validate`, and where a file would be replaced, without `force` or in a folder where no client is.
    Other files in the folder stay as they are, and so do the program and the files of its build where somebody changed
    them; a changed file of the class itself is refused.
    """
    return write_client(source, output, language, precision=precision, force=force).files


def write_client(
    source: Bundle | str | os.PathLike[str],
    output: str | os.PathLike[str],
    language: str,
    *,
    precision: str = "float32",
    force: bool = False,
) -> Written:
    """`embed`, which also tells what it kept."""
    if language not in tuple(LANGUAGES):
        raise InputError(f"There is no client in {language!r}; {did_you_mean(language, LANGUAGES)}")
    if precision not in PRECISIONS:
        raise InputError(f"There is no client in {precision!r}; {did_you_mean(precision, PRECISIONS)}")
    bundle, target = source if isinstance(source, Bundle) else Bundle(source), LANGUAGES[language]
    artifacts = _artifacts(bundle, target, precision)
    if changed := [name for artifact in artifacts for name in bundle.changed(artifact)]:
        raise InputError(f"{changed[0]} of {bundle.path} was changed since its export; export the model again.")
    for artifact in artifacts:
        if reason := unproven(bundle, artifact):
            raise InputError(
                f"{artifact.path} of {bundle.path} {reason}; run {proof(bundle, bundle.path)}, which says what is "
                "wrong, or export the model again."
            )
    traces = {a.format: TRACE if len(artifacts) == 1 else f"golden.{a.format}.txt" for a in artifacts}
    variables = {**_variables(bundle, artifacts, target), "package": target.package, "traces": traces}
    files: dict[str, str | Path] = {traces[a.format]: trace(bundle, a) for a in artifacts}
    for artifact in artifacts:
        files |= {name: bundle.path / name for name, _ in artifact.files}
    environment = template_environment("lstm_deploy.embedding", {**FILTERS, "literal": target.literal})
    sessions = [target.sessions[artifact.format] for artifact in artifacts if target.sessions]
    for name in (*target.templates, *sessions):
        files[name.partition("/")[2]] = environment.get_template(f"{name}.jinja").render(variables)
    generated = [name.partition("/")[2] for name in (*target.templates, *sessions)]
    kept = _write(as_path(output), files, generated, force=force)
    return Written(sorted({*files, RECORD} - {*kept}), kept)


def languages_of(bundle: Bundle) -> list[str]:
    """The languages of `LANGUAGES` in which `embed` can write a client of a bundle in float32."""
    found = []
    for name, language in LANGUAGES.items():
        with suppress(InputError):
            _variables(bundle, _artifacts(bundle, language, "float32"), language)
            found.append(name)
    return found


def needs_vnni(source: str | os.PathLike[str], files: Iterable[str]) -> bool:
    """Whether one of the `files` that `embed` wrote is an artifact that is right only on CPUs with VNNI."""
    lowered = [artifact for artifact in Bundle(source).manifest.artifacts if artifact.evidence]
    return any(a.path in files and a.evidence and a.evidence.settings.get("cpus") == "with VNNI" for a in lowered)


def _variables(bundle: Bundle, artifacts: Sequence[Artifact], language: Language) -> dict[str, Any]:
    """The contract as templates read it; raises `InputError` for one that no client in the language could keep."""
    variables = model_variables(bundle, artifacts, language)
    if "c" in language.formats:
        variables["c"] = c_variables(bundle.file(artifacts[0]), artifacts[0].weights, language)
    return variables


def _artifacts(bundle: Bundle, language: Language, precision: str) -> list[Artifact]:
    """The artifacts that the program runs; raises `InputError` where there is none that it can."""
    formats = language.formats
    artifacts = [a for a in bundle.manifest.artifacts if a.format in formats and a.precision == precision]
    if not artifacts:
        missing = f"{bundle.path} has no {' or '.join(formats)} artifact in {precision}"
        if reason := _why_left_out(bundle, formats, precision):
            raise InputError(f"{missing} ({reason}); use --precision float32.")
        listed = ", ".join(f"{a.format} {a.precision}" for a in bundle.manifest.artifacts)
        raise InputError(f"{missing} (it has {listed}); {_remedy(bundle, formats, precision)}.")
    for artifact in artifacts:
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
        if language.single_file and artifact.weights:
            raise InputError(f"{artifact.path} is too large for a browser, its weights lie beside it; use node.")
    return sorted(artifacts, key=lambda artifact: formats.index(artifact.format))


def _remedy(bundle: Bundle, formats: tuple[str, ...], precision: str) -> str:
    """How to come to an artifact in one of these formats, and keep the others, as the end of a message."""
    had = {artifact.format for artifact in bundle.manifest.artifacts}
    needed = next((name for name in formats if name in had), formats[0])
    if needed == "c":
        try:
            CInterface("model", bundle.signature, precision)
        except InputError as error:
            reason = str(error).partition(";")[0]
            return f"C cannot hold this model, as {reason[0].lower()}{reason[1:]}; choose a language that runs another"
    wanted = ",".join(name for name in FORMATS if name in {*had, needed})
    quantize = "" if precision == "float32" else f" --quantize {precision}"
    # Whether C has all operators of a model is known to its writer alone, which refuses before it replaces anything.
    unless = ", which changes nothing if C cannot hold the model" if needed == "c" and "c" not in had else ""
    return f"export the model again with --format {wanted}{quantize} --force{unless}"


def _why_left_out(bundle: Bundle, formats: tuple[str, ...], precision: str) -> str:
    """The note of `export` on an artifact of these formats that it tried and left out; empty if there is none."""
    named = tuple(
        f"{name} is left out" for name in (precision, *(FORMATS[one].file_name(precision) for one in formats))
    )
    return next((note for note in bundle.manifest.notes if note.startswith(named)), "")


def _write(folder: Path, files: dict[str, Any], generated: Sequence[str], *, force: bool) -> list[str]:
    """Write files into a folder; a `Path` is copied. A new folder appears whole, in another the trace comes first.

    Returns the names of those that were kept: of the `generated` ones, those that somebody changed.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is not a directory; choose another output with -o.")
    check_parent(folder / "any")
    existing = [name for name in (*files, RECORD) if (folder / name).exists()]
    if existing and not force:
        raise InputError(
            f"{folder / existing[0]} already exists; replace it with --force or choose another output with -o."
        )
    if existing and not _holds_client(folder):
        raise InputError(
            f"{folder / existing[0]} is not of a client that embed wrote, so it is not replaced; choose another output "
            "with -o."
        )
    if folders := [name for name in existing if (folder / name).is_dir()]:
        raise InputError(f"{folder / folders[0]} is a directory; choose another output with -o.")
    before, texts = _record(folder), {name: files[name].encode() for name in generated}
    kept = [name for name in generated if name in existing and _is_changed(folder / name, texts[name], before)]
    if of_ours := [name for name in kept if OURS.match(name)]:
        raise InputError(
            f"{folder / of_ours[0]} was changed since embed wrote it, and the changes would be lost; move it away, or "
            "choose another output with -o."
        )
    after = before | {name: hashlib.sha256(text).hexdigest() for name, text in texts.items()}
    files = {name: content for name, content in files.items() if name not in kept}
    record = {"about": "SHA-256 of the files as lstm-deploy embed wrote them", "files": after}
    files[RECORD] = f"{json.dumps(record, indent=1)}\n"
    folder = folder.resolve()
    if folder.exists():
        with scratch_folder(".partial-", folder) as partial:
            _fill(partial, files)
            for name in files:
                (partial / name).replace(folder / name)
        return kept
    folder.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(f".{folder.name}.partial-", folder.parent) as partial:
        _fill(partial, files)
        partial.chmod(0o777 & new_file_mode())
        partial.rename(folder)
    return kept


def _record(folder: Path) -> dict[str, str]:
    """What `embed` wrote in a folder before, by `RECORD`; empty where that is missing or says nothing of use."""
    with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
        found = json.loads((folder / RECORD).read_text(encoding="utf-8"))["files"].items()
        return {name: digest for name, digest in found if isinstance(digest, str)}
    return {}


def _is_changed(file: Path, text: bytes, record: Mapping[str, str]) -> bool:
    """Whether a file is neither what `embed` wrote before nor what it would write now."""
    content = file.read_bytes().replace(b"\r\n", b"\n")  # as git may write it
    return content != text and hashlib.sha256(content).hexdigest() != record.get(file.name)


def _fill(folder: Path, files: dict[str, Any]) -> None:
    for name, content in files.items():
        if isinstance(content, Path):
            shutil.copyfile(content, folder / name)
        else:
            (folder / name).write_text(content, encoding="utf-8", newline="\n")
        (folder / name).chmod(0o666 & new_file_mode())


def _holds_client(folder: Path) -> bool:
    """Whether a folder has a golden trace, as all clients have; other folders have a README.md of their own, too."""
    traces = (file for file in folder.glob("golden*.txt") if file.is_file())
    return any(file.read_bytes().startswith(b"reset ") for file in traces)
