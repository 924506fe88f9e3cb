"""Whether artifacts are proven, and the command that holds a bundle against the model that it was exported from."""

import json
import shlex
from pathlib import Path
from typing import NamedTuple

from lstm_deploy.artifacts.bundle import Artifact, Bundle

ANY_FILE, ANY_CODE = "FILE", "FILE.py"
"""What a command says in the place of files that are not known."""


class Proof(NamedTuple):
    """How a bundle is held against its source."""

    command: tuple[str, ...]
    """The words after `lstm-deploy`."""
    is_complete: bool
    """Whether it runs as it is, without a `FILE` to fill in."""

    def __str__(self) -> str:
        return shlex.join(["lstm-deploy", *self.command])


def proof(bundle: Bundle, target: Path, provider: str = "cpu") -> Proof:
    """The `validate` of a bundle, or of the artifact of it at `target`, that runs its PyTorch model."""
    options = reference_options(bundle)
    elsewhere = [] if provider == "cpu" else ["--provider", provider]
    complete = not any(word == ANY_FILE or word.startswith(f"{ANY_CODE}:") for word in options)
    return Proof(("validate", str(target), *options, *elsewhere), complete)


def reference_options(bundle: Bundle) -> list[str]:
    """The options of `validate` and `bench` that name the model of a bundle; none where it is found without.

    They are read from the manifest and name code that they let run, so they are for a person to read first.
    """
    if not bundle.source_obstacle:
        return []
    source, options = bundle.manifest.source, bundle.manifest.options
    file = bundle.source_file
    words = ["--reference", _from_here(file) if file and bundle.has_source else ANY_FILE]
    if source.kind == "module" and options.get("model"):
        words += ["--model", _class(str(options["model"]), file)]
        if init := options.get("init"):
            words += ["--init", json.dumps(init)]
    elif source.kind == "module":  # a pickled or a live module
        words += ["--trust-pickle"] if file else ["--model", f"{ANY_CODE}:Class"]
    if key := options.get("weights_key"):
        words += ["--weights-key", str(key)]
    return words


def unproven(bundle: Bundle, artifact: Artifact, provider: str = "cpu") -> str:
    """Why an artifact does not count as validated on a provider; empty where it does."""
    if bundle.changed(artifact):
        return "is not the file that was validated"
    report = bundle.manifest.parity_on(provider)
    checks = [check for check in report.checks if check.artifact == artifact.path] if report else []
    if not checks:
        return f"has not been validated on {provider}"
    return "" if all(check.passed for check in checks) else "has failed validation"


def _class(model: str, source: Path | None) -> str:
    """The class of the export, whose file is looked for here and beside the weights."""
    home, _, name = model.rpartition(":")
    if not home.endswith(".py"):
        return model
    places = [Path(home), *([source.parent / home] if source else [])]
    found = next((place for place in places if place.is_file()), None)
    return f"{_from_here(found) if found else ANY_CODE}:{name}"


def _from_here(file: Path) -> str:
    """A file as it is named in the current directory."""
    file, here = file.resolve(), Path.cwd()
    return str(file.relative_to(here) if file.is_relative_to(here) else file)
