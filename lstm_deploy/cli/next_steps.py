"""What to do next with a bundle: commands that run as they are printed."""

import sys
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from shutil import which
from typing import TYPE_CHECKING, Any

from lstm_deploy.errors import why_missing

if TYPE_CHECKING:
    from lstm_deploy.artifacts import Bundle
    from lstm_deploy.embedding import Language

Command = list[object]


def after_export(bundle: "Bundle", path: Path) -> list[Command]:
    """Measure it, use it, embed it."""
    return [["bench", path], *use(bundle, path), *embed(bundle, path)]


def export(path: Path) -> Command:
    """The export of a checkpoint to where it goes by default."""
    return ["export", path, *(["--force"] if Path("exported", path.stem).exists() else [])]


def after_inspect(path: Path, document: Mapping[str, Any]) -> list[Command]:
    """Export weights, prove and measure a bundle; nothing where something is to be mended first."""
    match document["kind"]:
        case "checkpoint":
            return [_export_or_inspect(path)]
        case "weights" if document["inferred"] and not document["unrecognized"]:
            return [_export_or_inspect(path)]
        case "bundle" if not document["changed_files"]:
            return [["bench", path]] if document["validated"] else [_validate(path)]
    return []


def _export_or_inspect(path: Path) -> Command:
    """The export of a file, or a look at what is where it would go, which may have been proven and measured."""
    exported = Path("exported", path.stem)
    return ["inspect", exported] if exported.exists() else export(path)


def _validate(path: Path) -> Command:
    """The command that holds a bundle against its model; where that is not known, the one that says what it needs."""
    from lstm_deploy.artifacts import Bundle, proof

    proving = proof(Bundle(path), path)
    return [*proving.command] if proving.is_complete else ["validate", path]


def after_validate(target: Path, provider: str, *, only_trace: bool) -> list[Command]:
    """Run the model if only its trace was replayed, and measure the bundle if `bench` will take it."""
    from lstm_deploy.artifacts import Bundle, proof, unproven

    commands: list[Command] = []
    if only_trace and not why_missing("torch"):
        proving = proof(Bundle(target if target.is_dir() else target.parent), target, provider)
        commands += [[*proving.command]] if proving.is_complete else []
    if target.is_dir():
        bundle = Bundle(target)
        if not any(unproven(bundle, artifact, provider) for artifact in bundle.manifest.exported):
            commands.append(["bench", target, *(["--provider", provider] if provider != "cpu" else [])])
    return commands


def after_run(
    path: Path, file: Path | None, prompts: list[str], plot: Path | None, temperature: float, steps: int | None = None
) -> list[Command]:
    """The forecast as a picture, or a text that is less likely."""
    asked = ["--steps", steps] if steps else []
    if prompts:
        return [] if temperature else [["run", path, "--prompt", prompts[0], *asked, "--temperature", "0.8"]]
    if plot is None and file is not None and _is_forecaster(path):
        return [["run", path, "--input", file, *asked, "--plot", f"{path.resolve().name}-forecast.png"]]
    return []


def use(bundle: "Bundle", path: Path) -> list[Command]:
    """`run` with an input that is at hand: the data of the training, or a text of the model's own vocabulary."""
    from lstm_deploy.contract import Forecast, LanguageModel
    from lstm_deploy.exporters import sample_text

    task = bundle.signature.task
    if isinstance(task, LanguageModel):
        return [["run", path, "--prompt", sample_text(task)]]
    if isinstance(task, Forecast) and (data := _training_data(bundle)):
        return [["run", path, "--input", data]]
    return []


def embed(bundle: "Bundle", path: Path) -> list[Command]:
    """A client in the first language that has one for this bundle, unless its folder is there."""
    from lstm_deploy.embedding import languages_of

    language = next(iter(languages_of(bundle)), None)
    if language is None or Path(f"{path.resolve().name}-{language}").exists():
        return []
    return [["embed", path, "--lang", language]]


def replay(language: "Language", folder: Path, files: list[str]) -> str:
    """The line for a shell that builds a client and replays its golden trace; empty where README.md says more."""
    if language.run_needs and (why_missing("torch") or not any(name.endswith(language.run_needs) for name in files)):
        return ""
    # The build of what needs PyTorch goes on by itself where another Python has none, so no name will do.
    python = quote(sys.executable) if language.run_needs else _python()
    return f"cd {quote(str(folder))} && {language.run.format(python=python)}"


def _python() -> str:
    """The name of this Python, or its path where a shell would find another one by that name."""
    found = which(Path(sys.executable).name)
    # Paths are compared as they are: the Python of each virtual environment is a link, often to the same file.
    is_this = found is not None and Path(found).absolute() == Path(sys.executable).absolute()
    return Path(sys.executable).name if is_this else quote(sys.executable)


def _is_forecaster(path: Path) -> bool:
    from lstm_deploy.artifacts import Bundle
    from lstm_deploy.contract import Forecast

    return isinstance(Bundle(path).signature.task, Forecast)


def _training_data(bundle: "Bundle") -> Path | None:
    """The file that our own training read, if it is still where it was."""
    data = (bundle.manifest.training or {}).get("data", {}).get("path")
    source = bundle.manifest.source.path
    if not isinstance(data, str) or source is None:
        return None
    file = (bundle.path / source).resolve().parent / data
    if not file.is_file():
        return None
    here = Path.cwd()
    file = file.resolve()
    return file.relative_to(here) if file.is_relative_to(here) else file
