"""The bundle: a directory with a manifest, the artifacts it lists, a golden trace and a report.

It is written completely or not at all: in a temporary directory beside it, which then takes its place.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from lstm_deploy.artifacts.files import as_path, atomic_write, check_parent, new_file_mode, sha256, weights_file
from lstm_deploy.artifacts.formats import FORMATS
from lstm_deploy.artifacts.parity_report import ParityReport
from lstm_deploy.artifacts.replacement import old_prefix, replace_folder, restore
from lstm_deploy.artifacts.report_style import html_lines, html_table
from lstm_deploy.artifacts.scratch import scratch_folder, scratch_paths, sweep
from lstm_deploy.contract import CONTRACT_VERSION, SCHEMA_VERSION, Signature, StateDtype, decode_json
from lstm_deploy.errors import InputError

MANIFEST = "manifest.json"
GOLDEN = "golden.npz"
REPORT = "report.md"
REPORT_PLOTS = "report"
MOST_ARTIFACTS = 100
"""More of them in a manifest, each of which would be read, are there to keep a reader busy."""


class Source(Struct, frozen=True, kw_only=True):
    """Where the network came from."""

    kind: str
    """`checkpoint` from `train`, `weights` from which the network was inferred, or `module` of the user's code."""
    path: str | None = None
    """The file, relative to the bundle, so that both can be moved together."""
    sha256: str | None = None
    summary: str = ""
    """The network in a few words."""


class Evidence(Struct, frozen=True, kw_only=True):
    """What an artifact of lower precision saves and costs, compared with the float32 one of its format."""

    recurrent_layers: int = msgspec.field(name="lstm_layers")
    """All of them; in JSON under the name from when all were LSTMs."""
    lowered_layers: int
    """Those that compute in the lower precision."""
    kept_float: tuple[str, ...] = ()
    """Layers that stay in float32."""
    settings: dict[str, Any] = {}
    """Quantization settings, and the CPU features that they were chosen for."""
    bytes_ratio: float
    """Size relative to float32: of the files, but of C, which is text, of the weights alone."""
    data: str
    """The data that the loss was measured on."""
    metric: str = ""
    """`rmse`, `bits_per_character` or `accuracy`; empty if there is no ground truth."""
    metric_float32: float | None = None
    metric_value: float | None = None
    loss: float
    """How much worse the metric is, relative to float32's; without a metric, the `difference`."""
    max_loss: float
    difference: float
    """RMS difference of the outputs from float32's, relative to the spread of these."""
    cosine: float
    """Cosine similarity of the outputs and float32's."""
    decisions_changed: float | None = None
    """The part of all entries in which another column of the first output is the largest than in float32; None where no
    column stands for a choice, as in a forecast."""
    scenario: str = ""
    """The scenario timed together with float32, at batch 1 on one thread; empty if none could be."""
    p50_us: float | None = None
    p50_us_float32: float | None = None
    time_ratio: float | None = None
    """Time relative to float32, with its 95 % confidence interval."""
    time_ratio_interval: tuple[float, float] | None = None
    tried: tuple[dict[str, Any], ...] = ()
    """All combinations of settings and layers that were tried, each with its loss and why it was rejected."""


class Artifact(Struct, frozen=True, kw_only=True):
    """One exported file."""

    path: str
    """Relative to the bundle."""
    format: str
    """`onnx`, `torchscript` or `c`."""
    precision: str
    sha256: str
    bytes: int
    """Total size of its files."""
    weights: str | None = None
    """The file beside it with its weights, if they are too large for one file."""
    weights_sha256: str | None = None
    header: str | None = None
    """The header file of a C artifact."""
    header_sha256: str | None = None
    state_dtype: StateDtype = "float32"
    """Data type of the state; the rest of the contract holds for every artifact."""
    evidence: Evidence | None = None
    """For every precision other than float32."""

    @classmethod
    def of(cls, path: Path, format: str, precision: str = "float32", **more: Any) -> "Artifact":  # noqa: A002
        """The entry of the manifest for a file that was just written, with the weights and header beside it."""
        companions = {"weights": weights_file(path)}
        if FORMATS[format].has_header:
            companions["header"] = path.with_suffix(".h")
        companions = {name: file for name, file in companions.items() if file.exists()}
        for name, file in companions.items():
            more |= {name: file.name, f"{name}_sha256": sha256(file)}
        return cls(
            path=path.name,
            format=format,
            precision=precision,
            sha256=sha256(path),
            bytes=sum(file.stat().st_size for file in (path, *companions.values())),
            **more,
        )

    @property
    def files(self) -> list[tuple[str, str]]:
        """The names of all its files, each with its SHA-256."""
        companions = ((self.weights, self.weights_sha256), (self.header, self.header_sha256))
        return [(self.path, self.sha256), *((name, digest or "") for name, digest in companions if name)]


class Manifest(Struct, frozen=True, kw_only=True):
    """The description of a bundle; `manifest.json` is its JSON."""

    schema_version: int = SCHEMA_VERSION
    name: str
    created: str
    """UTC, ISO 8601."""
    contract: Signature
    source: Source
    options: dict[str, Any]
    """Options of `export`; the same options on the same source give the same bundle."""
    artifacts: tuple[Artifact, ...]
    rollouts: tuple[Artifact, ...] = ()
    """Rollouts, in which the model is fed with its own outputs: one for each artifact that has one."""
    golden_sha256: str
    parity: ParityReport | None = None
    """Parity on the CPU."""
    parity_elsewhere: dict[str, ParityReport] = {}
    """Parity on other execution providers, by name."""
    measurements: dict[str, Any] | None = None
    """The document of the latest `bench --json`, without its samples."""
    findings: tuple[str, ...] = ()
    """Facts inferred about the source, one sentence each."""
    notes: tuple[str, ...] = ()
    """Decisions about artifacts of lower precision, one sentence each."""
    training: dict[str, Any] | None = None
    """Results of the training, including metrics on held-out data."""
    versions: dict[str, str]

    def parity_on(self, provider: str) -> ParityReport | None:
        """The latest verdict on a provider, if there is one."""
        return self.parity if provider == "cpu" else self.parity_elsewhere.get(provider)

    @property
    def exported(self) -> tuple[Artifact, ...]:
        """The model's artifacts, then the rollouts."""
        return (*self.artifacts, *self.rollouts)


class Bundle:
    """A bundle on disk; a path-like object, so that what takes a path takes a bundle."""

    path: Path
    manifest: Manifest

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Read the manifest; raises `InputError` if it is missing or malformed."""
        self.path = as_path(path)
        restore(self.path)
        file = self.path / MANIFEST
        if not self.path.exists():
            raise InputError(f"{self.path} does not exist; give a bundle, as lstm-deploy export writes it.")
        text = None
        with suppress(FileNotFoundError):
            text = file.read_bytes() if file.is_file() else None
        if text is None:
            raise InputError(f"{self.path} is not a bundle (it has no {MANIFEST}); make one with lstm-deploy export.")
        self.manifest = decode_json(text, Manifest, f"The manifest of {self.path}")
        if self.manifest.contract.schema_version > CONTRACT_VERSION:  # which the manifest's own version does not say
            raise InputError(
                f"The contract of {self.path} is of a newer version than this release; upgrade lstm-deploy."
            )
        self.manifest.contract.check(f"The contract of {self.path}")
        if not self.manifest.artifacts:
            raise InputError(f"The manifest of {self.path} lists no artifact; export the model again.")
        if (count := len(self.manifest.exported)) > MOST_ARTIFACTS:
            raise InputError(
                f"The manifest of {self.path} lists {count:,} artifacts, as no export does; do not use it."
            )

    def __repr__(self) -> str:
        return f"Bundle({str(self.path)!r})"

    def __fspath__(self) -> str:
        """Its path."""
        return str(self.path)

    def _repr_html_(self) -> str:
        """What it takes and gives, its files, and whether they were proven, for notebooks."""
        contract, parity = self.signature, self.manifest.parity
        tensors = [("in", str(spec)) for spec in (*contract.inputs, *contract.state_inputs)]
        tensors += [("out", str(spec)) for spec in (*contract.outputs, *contract.state_outputs)]
        files = [(file.path, file.format, file.precision, f"{file.bytes:,}") for file in self.manifest.exported]
        return (
            html_lines(f"{self.path}: {self.manifest.source.summary}; streaming {contract.streaming_text}.")
            + html_table(("", "tensor"), tensors)
            + html_table(("file", "format", "precision", "bytes"), files)
            + html_lines(parity.verdict if parity else "Not validated on the CPU.")
        )

    @property
    def signature(self) -> Signature:
        """The state contract: what its artifacts take, give and carry."""
        return self.manifest.contract

    @property
    def source_path(self) -> Path | None:
        """The file it was exported from, if it is still there, unchanged, and can be read without running code.

        A file that a manifest names is never imported or unpickled, as a bundle may come from an untrusted source.
        """
        return None if self.source_obstacle else self.source_file

    @property
    def source_obstacle(self) -> str:
        """Why there is no `source_path`, as the part of a sentence; empty where there is one."""
        source, file = self.manifest.source, self.source_file
        if file is None:
            return "it was exported from a live module, which is in no file"
        if not file.is_file():
            return f"its source {file.name} is gone"
        if not self.has_source:
            return f"its source {file.name} has changed since the export"
        if source.kind != "module":
            return ""
        if model := self.manifest.options.get("model"):
            return f"its source {file.name} needs the class {model}, and a bundle runs no code of yours by itself"
        return f"its source {file.name} is a pickled module, which a bundle does not open by itself"

    @property
    def source_file(self) -> Path | None:
        """Where the file lies, or lay, that it was exported from; none for a live module."""
        source = self.manifest.source
        return None if source.path is None else self._resolve(source.path)

    @property
    def has_source(self) -> bool:
        """Whether that file is there and unchanged."""
        file = self.source_file
        return file is not None and file.is_file() and sha256(file) == self.manifest.source.sha256

    def file(self, artifact: Artifact) -> Path:
        """The path of an artifact; raises `InputError` if it is missing or lies outside the bundle."""
        path = self._resolve(artifact.path)
        if not path.is_relative_to(self.path.resolve()):
            raise InputError(f"{self.path} names {artifact.path!r}, which lies outside the bundle; do not use it.")
        if not path.is_file():
            raise InputError(f"{path} is missing from its bundle; export the model again.")
        return path

    def find(self, format: str, precision: str = "float32") -> Artifact:  # noqa: A002 - the field's name
        """The artifact of a format and precision; raises `InputError`, listing those there are, if there is none."""
        for artifact in self.manifest.artifacts:
            if (artifact.format, artifact.precision) == (format, precision):
                return artifact
        available = ", ".join(f"{a.format} {a.precision}" for a in self.manifest.artifacts)
        raise InputError(f"{self.path} has no {format} artifact in {precision}; use one of those it has: {available}.")

    def check_unchanged(self, artifact: Artifact) -> None:
        """Raise `InputError` unless an artifact's files have the SHA-256 that is in the manifest.

        The rule of all that opens an artifact to run it. It finds what was changed, mixed up or cut off, not who did
        it: whoever can write the files can write the manifest.
        """
        if not (changed := self.changed(artifact)):
            return
        if Bundle(self.path).manifest.exported != self.manifest.exported:
            raise InputError(f"{self.path} was exported again since it was opened; open it again.")
        what = "is not the file that was exported" if (self.path / changed[0]).exists() else "is missing"
        raise InputError(
            f"{self.path / changed[0]} {what} (by the SHA-256 in the manifest); copy the whole bundle again, or export "
            "the model again."
        )

    def changed(self, artifact: Artifact) -> list[str]:
        """The files of an artifact that are missing or whose SHA-256 is not that in the manifest."""
        return [name for name, digest in artifact.files if not self.is_unchanged(name, digest)]

    def is_unchanged(self, name: str, digest: str) -> bool:
        """Whether the bundle has a file of this name with this SHA-256."""
        path = self._resolve(name)
        with suppress(FileNotFoundError):  # replaced at this moment
            return path.is_relative_to(self.path.resolve()) and path.is_file() and sha256(path) == digest
        return False

    def changed_files(self) -> list[str]:
        """The files of all artifacts, and the golden trace, that are missing or changed."""
        changed = [name for artifact in self.manifest.exported for name in self.changed(artifact)]
        return changed + ([] if self.is_unchanged(GOLDEN, self.manifest.golden_sha256) else [GOLDEN])

    def _resolve(self, name: str) -> Path:
        return Path(os.path.realpath(self.path / name.replace("\0", "")))

    def update(self, **fields: Any) -> None:
        """Replace fields of the manifest, on disk too."""
        self.manifest = msgspec.structs.replace(self.manifest, **fields)
        write_manifest(self.path, self.manifest)


def check_unchanged(path: Path) -> None:
    """`Bundle.check_unchanged` of a file that a bundle beside it lists; other files pass."""
    try:
        bundle = Bundle(path.parent)
    except InputError:  # other programs have a manifest.json, too
        return
    for artifact in bundle.manifest.exported:
        if artifact.path == path.name:
            bundle.check_unchanged(artifact)


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write `manifest.json` into a directory, atomically."""
    with atomic_write(directory / MANIFEST) as file:
        file.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")


@contextmanager
def atomic_bundle(path: Path, *, force: bool) -> Iterator[Path]:
    """A temporary directory to fill, which takes the place of `path` if the block ends without an error.

    Whatever is killed, and whenever, there is a whole bundle at `path`, the old or the new one, or none if there was
    none; what killed exports left behind is removed. Raises `InputError` as `check_destination`, before anything is
    written, and again if another process wrote to `path` meanwhile.
    """
    check_destination(path, force=force)
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(old_prefix(path), path.parent)
    with scratch_folder(f".{path.name}.partial-", path.parent) as partial:
        yield partial
        partial.chmod(0o777 & new_file_mode())  # mkdtemp makes it private
        check_destination(path, force=force)
        replace_folder(partial, path)


def check_destination(path: Path, *, force: bool) -> None:
    """Raise `InputError` unless a bundle may be written to `path`.

    A bundle or an empty directory is replaced, but only with `force`; anything else never.
    """
    restore(path)
    if not path.exists() and not path.is_symlink():
        check_parent(path)
        return
    if not path.is_dir() or path.is_symlink():
        raise InputError(f"{path} is not a directory; choose another output with -o.")
    if Path.cwd().is_relative_to(path.resolve()):
        raise InputError(f"{path.resolve()} is the current directory; give the name of a new one with -o.")
    if foreign := _foreign_files(path):
        raise InputError(f"{path} holds {foreign[0]}, which is not of a bundle; choose another output with -o.")
    if not force:
        raise InputError(f"{path} already exists; replace it with --force or choose another output with -o.")


def _foreign_files(path: Path) -> list[str]:
    """The files in a directory that were not put there by an export."""
    expected = set()
    with suppress(InputError):
        names = [name for artifact in Bundle(path).manifest.exported for name, _ in artifact.files]
        expected = {MANIFEST, GOLDEN, REPORT, REPORT_PLOTS, *names}
    half_written = {
        file.name for name in expected for file in scratch_paths(f".{name}.partial-", path)
    }  # by the killed
    return sorted(file.name for file in path.iterdir() if file.name not in expected | half_written)
