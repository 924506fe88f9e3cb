"""The bundle: a directory with a manifest, the artifacts it lists, a golden trace and a report.

It is either whole or absent: written beside its place, then renamed.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from lstm_deploy.artifacts.files import mode_of_new_files, replacing, sha256, weights_file
from lstm_deploy.artifacts.formats import FORMATS
from lstm_deploy.artifacts.parity_report import ParityReport
from lstm_deploy.contract import SCHEMA_VERSION, Signature, StateDtype, decode
from lstm_deploy.errors import InputError

MANIFEST = "manifest.json"
GOLDEN = "golden.npz"
REPORT = "report.md"
REPORT_PLOTS = "report"


class Source(Struct, frozen=True, kw_only=True):
    """Where the network came from."""

    kind: str
    """`checkpoint` of ours, `weights` that told their network by themselves, or `module` of the user's code."""
    path: str | None = None
    """The file, relative to the bundle, so that both can be moved together."""
    sha256: str | None = None
    summary: str = ""
    """The network in a few words."""


class Evidence(Struct, frozen=True, kw_only=True):
    """What an artifact of lower precision saves beside the float32 one of its format, and what it costs."""

    lstm_layers: int
    lowered_layers: int
    """LSTM layers that compute in the lower precision."""
    kept_float: tuple[str, ...] = ()
    """Layers that had to stay in float32."""
    settings: dict[str, Any] = {}
    """How numbers are rounded, and the CPU features that this was chosen for."""
    bytes_ratio: float
    """Of float32's bytes."""
    data: str
    """What the loss was measured on."""
    metric: str = ""
    """`rmse`, `bits_per_character` or `accuracy`; empty where nothing tells the truth."""
    metric_float32: float | None = None
    metric_value: float | None = None
    loss: float
    """How much worse the metric is, as a part of float32's; without a metric the `difference`."""
    max_loss: float
    """What was allowed."""
    difference: float
    """RMS of the difference of the outputs from float32's, as a part of how much these vary."""
    cosine: float
    """Between the outputs and float32's."""
    scenario: str = ""
    """What was timed, at batch 1 on one thread, beside float32 in the same run; empty where nothing could be."""
    p50_us: float | None = None
    p50_us_float32: float | None = None
    time_ratio: float | None = None
    """Of float32's time, with its 95 % interval."""
    time_ratio_interval: tuple[float, float] | None = None
    tried: tuple[dict[str, Any], ...] = ()
    """All settings and layers that were tried: what each loses, and why it was not taken."""


class Artifact(Struct, frozen=True, kw_only=True):
    """One exported file."""

    path: str
    """Relative to the bundle."""
    format: str
    """`onnx`, `torchscript` or `c`."""
    precision: str
    sha256: str
    bytes: int
    """Of all its files."""
    weights: str | None = None
    """The file beside it that holds its weights, where they are too large for one file."""
    weights_sha256: str | None = None
    header: str | None = None
    """Of C: the file that programs include."""
    header_sha256: str | None = None
    state_dtype: StateDtype = "float32"
    """Of the state's inputs and outputs; the other numbers of the contract hold for every artifact."""
    evidence: Evidence | None = None
    """For every precision but float32."""

    @classmethod
    def of(cls, path: Path, format: str, precision: str = "float32", **more: Any) -> "Artifact":  # noqa: A002
        """What the manifest says of a file that was just written; weights beside it belong to it."""
        weights = weights_file(path)
        header = path.with_suffix(".h")
        beside = (weights, header) if FORMATS[format].has_header else (weights,)
        files = [path, *(file for file in beside if file.exists())]
        return cls(
            path=path.name,
            format=format,
            precision=precision,
            sha256=sha256(path),
            bytes=sum(file.stat().st_size for file in files),
            weights=weights.name if weights.exists() else None,
            weights_sha256=sha256(weights) if weights.exists() else None,
            header=header.name if header in files else None,
            header_sha256=sha256(header) if header in files else None,
            **more,
        )

    @property
    def files(self) -> list[tuple[str, str]]:
        """All its files, each with its SHA-256."""
        beside = ((self.weights, self.weights_sha256), (self.header, self.header_sha256))
        return [(self.path, self.sha256), *((name, digest or "") for name, digest in beside if name)]


class Manifest(Struct, frozen=True, kw_only=True):
    """All that is known of a bundle; `manifest.json` is its JSON."""

    schema_version: int = SCHEMA_VERSION
    name: str
    created: str
    """UTC, ISO 8601."""
    contract: Signature
    source: Source
    options: dict[str, Any]
    """What was asked of `export`; the same options on the same source give the same bundle."""
    artifacts: tuple[Artifact, ...]
    rollouts: tuple[Artifact, ...] = ()
    """Of the model fed with its own outputs, where it can be: one for each artifact that has one."""
    golden_sha256: str
    parity: ParityReport | None = None
    """On the CPU."""
    parity_elsewhere: dict[str, ParityReport] = {}
    """On other execution providers, by name."""
    measurements: dict[str, Any] | None = None
    """The document of the latest `bench --json`, without its samples."""
    findings: tuple[str, ...] = ()
    """What was inferred about the source, one sentence each."""
    notes: tuple[str, ...] = ()
    """What was decided on the way to artifacts of lower precision, one sentence each."""
    training: dict[str, Any] | None = None
    """What the training reported, metrics on held-out data included."""
    versions: dict[str, str]

    @property
    def exported(self) -> tuple[Artifact, ...]:
        """The model's artifacts, and the rollouts."""
        return (*self.artifacts, *self.rollouts)


class Bundle:
    """A bundle on disk."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Read the manifest; raises `InputError` where there is none, or one that is malformed."""
        self.path = Path(path)
        file = self.path / MANIFEST
        if not file.is_file():
            raise InputError(f"{self.path} is not a bundle (it has no {MANIFEST}); make one with lstm-deploy export.")
        self.manifest = decode(file.read_bytes(), Manifest, f"The manifest of {self.path}")
        if self.manifest.contract.schema_version > SCHEMA_VERSION:
            raise InputError(
                f"The contract of {self.path} is of a newer version than this release; upgrade lstm-deploy."
            )
        if not self.manifest.artifacts:
            raise InputError(f"The manifest of {self.path} lists no artifact; export the model again.")

    def __repr__(self) -> str:
        return f"Bundle({str(self.path)!r})"

    @property
    def signature(self) -> Signature:
        return self.manifest.contract

    @property
    def source_path(self) -> Path | None:
        """The file it was exported from, if that is still there, unchanged, and can be read without running code.

        What a manifest names is never imported or unpickled: a bundle may come from anyone.
        """
        source = self.manifest.source
        if source.path is None or source.kind == "module":
            return None
        path = Path(os.path.realpath(self.path / source.path.replace("\0", "")))
        return path if path.is_file() and sha256(path) == source.sha256 else None

    def file(self, artifact: Artifact) -> Path:
        """The path of an artifact; raises `InputError` if the manifest names a file outside the bundle."""
        path = Path(os.path.realpath(self.path / artifact.path.replace("\0", "")))
        if not path.is_relative_to(self.path.resolve()):
            raise InputError(
                f"The manifest of {self.path} names {artifact.path!r}, which lies outside the bundle; "
                "do not use this bundle."
            )
        if not path.is_file():
            raise InputError(f"{path} is missing from its bundle; export the model again.")
        return path

    def find(self, format: str, precision: str = "float32") -> Artifact:  # noqa: A002 - the field's name
        """The artifact of a format and precision; raises `InputError`, naming what there is."""
        for artifact in self.manifest.artifacts:
            if (artifact.format, artifact.precision) == (format, precision):
                return artifact
        there = ", ".join(f"{a.format} {a.precision}" for a in self.manifest.artifacts)
        raise InputError(f"{self.path} has no {format} artifact in {precision}; it has {there}: use one of these.")

    def changed(self, artifact: Artifact) -> list[str]:
        """Which files of an artifact are not the bytes that the manifest vouches for."""
        return [name for name, digest in artifact.files if not self.is_unchanged(name, digest)]

    def is_unchanged(self, name: str, digest: str) -> bool:
        """Whether a file is there with this SHA-256."""
        path = Path(os.path.realpath(self.path / name.replace("\0", "")))
        return path.is_relative_to(self.path.resolve()) and path.is_file() and sha256(path) == digest

    def changed_files(self) -> list[str]:
        """Files of artifacts, and the golden trace, that are not the bytes that the manifest vouches for."""
        changed = [name for artifact in self.manifest.exported for name in self.changed(artifact)]
        return changed + ([] if self.is_unchanged(GOLDEN, self.manifest.golden_sha256) else [GOLDEN])

    def update(self, **fields: Any) -> None:
        """Replace fields of the manifest, on disk too."""
        self.manifest = msgspec.structs.replace(self.manifest, **fields)
        write_manifest(self.path, self.manifest)


def _foreign_files(path: Path) -> list[str]:
    """What lies in a directory and was not put there by an export."""
    names = sorted(file.name for file in path.iterdir())
    try:
        found = Bundle(path).manifest.exported
        artifacts = {name for artifact in found for name, _ in artifact.files}
    except InputError:
        return names
    return [name for name in names if name not in {MANIFEST, GOLDEN, REPORT, REPORT_PLOTS, *artifacts}]


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write `manifest.json` into a directory, whole or not at all."""
    with replacing(directory / MANIFEST) as file:
        file.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")


@contextmanager
def writing(path: Path, *, force: bool) -> Iterator[Path]:
    """A directory to fill, which takes the name `path` once the block ends without an error.

    What stood there is replaced only with `force`, and only if it is a bundle or an empty directory;
    otherwise `InputError`, before anything is written.
    """
    check_free(path, force=force)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.partial-", dir=path.parent))
    try:
        yield partial
        partial.chmod(0o777 & mode_of_new_files())  # mkdtemp makes it private
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old-", dir=path.parent))
            path.rename(old / path.name)
            partial.rename(path)
            shutil.rmtree(old)
        else:
            partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_free(path: Path, *, force: bool) -> None:
    """Raise `InputError` unless a bundle may be written at `path`."""
    if not path.exists() and not path.is_symlink():
        return
    if not path.is_dir() or path.is_symlink():
        raise InputError(f"{path} is not a directory; choose another output with -o.")
    if foreign := _foreign_files(path):
        raise InputError(f"{path} holds {foreign[0]}, which is not of a bundle; choose another output with -o.")
    if not force:
        raise InputError(f"{path} already exists; replace it with --force or choose another output with -o.")
