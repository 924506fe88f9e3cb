"""The variants that a benchmark times: every artifact of its targets, and the baselines it stands beside."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import onnx
from google.protobuf.message import DecodeError
from msgspec import Struct
from msgspec.structs import replace

from lstm_deploy.artifacts import (
    MANIFEST,
    SUFFIXES,
    Artifact,
    Bundle,
    CrashError,
    carried_contract,
    onnx_graph,
    run_isolated,
    without_contract,
)
from lstm_deploy.benchmark import roofline
from lstm_deploy.benchmark.roofline import Work
from lstm_deploy.benchmark.workloads import END_TO_END, SCENARIOS, SCOPES, BenchCase
from lstm_deploy.errors import InputError, why_missing
from lstm_deploy.runtimes import PROVIDERS, cannot_run

STEPWISE = ("stream", "sequence")
"""The scenarios of a model itself; rollouts are also compared with one call of the model per step."""


class Baseline(NamedTuple):
    """What a user would run without this project."""

    kind: str
    """See `worker.open_workload`."""
    description: str
    settings: tuple[str, ...] = ()
    providers: tuple[str, ...] = ("cpu", "cuda")
    scopes: tuple[str, ...] = SCOPES
    scenarios: tuple[str, ...] = STEPWISE
    precision: str = "float32"
    needs_source: bool = True
    """Whether it is made from the PyTorch model; else from the contract or the ONNX file."""


BASELINES = {
    "eager": Baseline("eager", "PyTorch, on CUDA without TF32", scenarios=SCENARIOS),
    "eager-tf32": Baseline("eager", "PyTorch with TF32", ("tf32",), ("cuda",), precision="tf32"),
    "eager-no-onednn": Baseline("eager", "PyTorch without oneDNN", ("no-onednn",), ("cpu",)),
    "eager-graph": Baseline("eager", "PyTorch as a CUDA graph", ("graph",), ("cuda",)),
    "torchscript-trace": Baseline("torchscript-trace", "torch.jit.trace"),
    "compile": Baseline("compile", "torch.compile"),
    "stock-onnx": Baseline("stock", "torch.onnx.export, dynamic batch, then session.run", scopes=(END_TO_END,)),
    "stock-fixed": Baseline("stock", "the same for one batch only", scopes=(END_TO_END,)),
    "legacy-onnx": Baseline("stock", "torch.onnx.export(dynamo=False), then session.run", scopes=(END_TO_END,)),
    "legacy-int8": Baseline(
        "stock", "the same through quantize_dynamic", (), ("cpu",), (END_TO_END,), precision="int8"
    ),
    "openvino": Baseline("openvino", "model.onnx in OpenVINO", (), ("cpu",), needs_source=False),
    "openvino-bf16": Baseline(
        "openvino", "the same in bfloat16", ("bf16",), ("cpu",), precision="bfloat16", needs_source=False
    ),
    "floor": Baseline("floor", "the null model, which computes nothing: the cost of a call", needs_source=False),
}
"""By their names on the command line; ratios refer to the first that runs, other than the null model."""
CUDA_SETTINGS: dict[str, tuple[tuple[str, ...], ...]] = {
    "onnx": ((), ("graph",), ("tf32",), ("tf32", "graph")),
    "torchscript": ((), ("graph",)),
}
"""The settings that artifacts are timed with on CUDA, for formats that have any. float16 has no TF32."""


class Variant(Struct, frozen=True, kw_only=True):
    """An artifact or a baseline, with the provider and settings that it is timed with."""

    name: str
    group: str = ""
    """The target whose baseline its ratios refer to; empty where a target has none: these share the first of them."""
    kind: str
    path: str
    artifact: str
    """Name of the file; empty for a baseline."""
    provider: str
    precision: str
    settings: tuple[str, ...] = ()
    scopes: tuple[str, ...] = SCOPES
    scenarios: tuple[str, ...] = SCENARIOS
    contract: str = ""
    """JSON of the model's contract, for files that carry none."""
    origin: str = ""
    """JSON of the `sources.Origin` of its PyTorch model; empty for the source of the bundle."""
    model: str = ""
    """What tells its model from others, each validated for itself, so that outputs may differ; empty if unknown."""
    control: bool = False
    """Whether it is the A/A control: the baseline timed a second time, which shows the noise."""
    work: Work | None = None
    """What one step has to compute and read."""

    @property
    def may_fail(self) -> bool:
        """Whether a run continues without it: baselines, and graphs, which not every model can be captured in."""
        return not self.artifact or "graph" in self.settings

    def gives_what(self, other: "Variant") -> bool:
        """Whether its outputs should be those of another variant."""
        return self.kind != "floor" and (self.model == other.model or not (self.model and other.model))

    def takes_part(self, case: BenchCase) -> bool:
        """Whether it is timed in a case; a captured graph has its buffers bound, so it has no plain calls."""
        if "graph" in self.settings and case.scenario != "stream" and case.scope == END_TO_END:
            return False
        return case.scenario in self.scenarios and case.scope in self.scopes


class Selection(NamedTuple):
    """What to time of each target; `unvalidated` is as in `Plan`, and `origin` as in `Variant`."""

    providers: Sequence[str]
    baselines: Sequence[str]
    cases: Sequence[BenchCase]
    unvalidated: bool
    origin: str


def variants_of(targets: Sequence[Path], selection: Selection, folder: Path) -> tuple[list[Variant], list[str]]:
    """For each target its baselines, then its artifacts, on every provider; and the reasons for what is left out.

    Files that baselines need are written to `folder`. Raises `InputError` for an artifact that has not passed
    `validate`.
    """
    variants: list[Variant] = []
    left_out: list[str] = []
    for number, (target, label) in enumerate(zip(targets, _labels(targets), strict=True)):
        prefix = f"{label}: " if len(targets) > 1 else ""
        for provider in dict.fromkeys(selection.providers):
            suffix = f" {provider}" if len(selection.providers) > 1 else ""
            if target.is_dir():
                exports = folder / f"{number}-{provider}"
                exports.mkdir()
                own, reasons = _of_bundle(Bundle(target), provider, selection, exports)
                left_out += [f"{prefix}{reason}" for reason in reasons]
            else:
                own = _of_file(target, provider, selection)
                if selection.baselines:
                    left_out.append(f"baselines of {label}: only bundles have baselines")
            group = label if any(not variant.artifact and variant.kind != "floor" for variant in own) else ""
            names = {"group": group, "model": _model(target)}
            variants += [replace(variant, name=f"{prefix}{variant.name}{suffix}", **names) for variant in own]
    return variants, left_out


def _model(target: Path) -> str:
    """The SHA-256 of the source of a bundle, or of the bundle that a file is in; its path if it has no source."""
    folder = target if target.is_dir() else target.parent
    return Bundle(folder).manifest.source.sha256 or str(folder.resolve()) if (folder / MANIFEST).is_file() else ""


def _labels(targets: Sequence[Path]) -> list[str]:
    """The names of targets, or their paths where two have the same name."""
    if len({target.resolve() for target in targets}) < len(targets):
        raise InputError("A target is named twice; name each once: the baseline is timed a second time by itself.")
    names = [target.name for target in targets]
    return [name if names.count(name) == 1 else str(target) for name, target in zip(names, targets, strict=True)]


def _of_bundle(bundle: Bundle, provider: str, selection: Selection, folder: Path) -> tuple[list[Variant], list[str]]:
    works = _works(bundle)
    variants, left_out = [], []
    for name in dict.fromkeys(selection.baselines):
        try:
            variants.append(_baseline(name, bundle, provider, selection, works, folder))
        except (InputError, CrashError) as error:
            left_out.append(f"{name}: {error}")
    for artifact in bundle.manifest.exported:
        if reason := cannot_run(artifact.format, artifact.precision, provider):
            left_out.append(f"{artifact.path}: {reason}")
        else:
            variants += _of_artifact(bundle, artifact, provider, selection, works)
    return variants, left_out


def _baseline(
    name: str, bundle: Bundle, provider: str, selection: Selection, works: Mapping[str, Work], folder: Path
) -> Variant:
    """Raises `InputError` or `CrashError`, with the reason, where there can be no such baseline."""
    baseline = BASELINES[name]
    if provider not in baseline.providers:
        raise InputError(f"not on {provider}")
    if baseline.needs_source:
        _check_source(bundle, selection.origin)
    path = bundle.path
    if baseline.kind == "openvino":
        if reason := why_missing("openvino"):
            raise InputError(reason)
        path = bundle.file(bundle.find("onnx"))
    elif baseline.kind == "stock":
        path = folder / f"{name}.onnx"
        cases = [case for case in selection.cases if case.scenario in baseline.scenarios]
        run_isolated(_write_stock, bundle.path, selection.origin, name, path, cases)
    return Variant(
        name=name,
        kind=baseline.kind,
        path=str(path),
        artifact="",
        provider=provider,
        precision=baseline.precision,
        settings=baseline.settings,
        scopes=baseline.scopes,
        scenarios=baseline.scenarios,
        contract=bundle.signature.to_json(),
        origin=selection.origin,
        work=None if name == "floor" else works.get(baseline.precision),
    )


def _write_stock(bundle: Path, origin: str, name: str, path: Path, cases: Sequence[BenchCase]) -> None:
    """Runs in a process of its own: an exporter that crashes, or changes global state, does so there."""
    from lstm_deploy.benchmark.baselines import write_stock

    write_stock(bundle, origin, name, path, cases)


def _check_source(bundle: Bundle, origin: str) -> None:
    if reason := why_missing("torch"):
        raise InputError(reason)
    if not origin and not bundle.source_path:
        raise InputError(
            "the source is missing, has changed, or needs code of yours to run; export it again, or name it "
            "with --reference and --model"
        )


def _of_file(target: Path, provider: str, selection: Selection) -> list[Variant]:
    """The variants of a single file; if it belongs to a bundle, the bundle's manifest applies."""
    if (target.parent / MANIFEST).is_file():
        bundle = Bundle(target.parent)
        for artifact in bundle.manifest.exported:
            if artifact.path == target.name:
                return _of_artifact(bundle, artifact, provider, selection, _works(bundle))
    if not target.is_file():
        raise InputError(f"{target} does not exist or is not a file; give a bundle or an artifact.")
    if target.suffix not in SUFFIXES:
        raise InputError(f"{target} is neither a bundle nor an artifact; give one that lstm-deploy export wrote.")
    if carried_contract(target) is None:
        raise without_contract(target, ", whose baseline stock-onnx is PyTorch's own export")
    if not selection.unvalidated:
        raise InputError(f"{target} has no recorded validation; time it with --unvalidated after lstm-deploy validate.")
    kind = SUFFIXES[target.suffix].name
    model = _graph(target) if kind == "onnx" else None
    return [
        Variant(
            name=kind,
            kind=kind,
            path=str(target),
            artifact=target.name,
            provider=provider,
            precision=onnx_graph.precision(model) if model else "float32",
            work=roofline.work_of(model) if model else None,
        )
    ]


def _of_artifact(
    bundle: Bundle, artifact: Artifact, provider: str, selection: Selection, works: Mapping[str, Work]
) -> list[Variant]:
    """An artifact with each of the settings that it is timed with on a provider."""
    if not selection.unvalidated and (reason := bundle.unproven(artifact, provider)):
        where = "" if provider == "cpu" else f" --provider {provider}"
        raise InputError(
            f"{artifact.path} of {bundle.path} {reason}; run lstm-deploy validate {bundle.path}{where}, "
            "or skip this check with --unvalidated."
        )
    is_rollout = artifact in bundle.manifest.rollouts
    has_settings = bool(PROVIDERS[provider].settings) and not is_rollout
    all_settings = CUDA_SETTINGS.get(artifact.format, ((),)) if has_settings else ((),)
    precision = [] if artifact.precision == "float32" else [artifact.precision]
    return [
        Variant(
            name=" ".join([artifact.format, *(["rollout"] if is_rollout else []), *precision, *settings]),
            kind=artifact.format,
            path=str(bundle.file(artifact)),
            artifact=artifact.path,
            provider=provider,
            precision=artifact.precision,
            settings=settings,
            scopes=(END_TO_END,) if is_rollout else SCOPES,
            scenarios=("rollout",) if is_rollout else SCENARIOS,
            work=works.get("tf32" if "tf32" in settings else artifact.precision),
        )
        for settings in all_settings
        if not ("tf32" in settings and artifact.precision != "float32")
    ]


def _works(bundle: Bundle) -> dict[str, Work]:
    """What one step has to compute and read, by precision."""
    artifacts = [artifact for artifact in bundle.manifest.artifacts if artifact.format == "onnx"]
    graphs = {artifact.precision: _graph(bundle.path / artifact.path) for artifact in artifacts}
    works = {precision: work for precision, graph in graphs.items() if graph and (work := roofline.work_of(graph))}
    if "float32" in works:
        works["tf32"] = roofline.in_precision(works["float32"], "tf32")
    return works


def _graph(path: Path) -> onnx.ModelProto | None:
    """The graph of a file; none where it cannot be read, which is reported when it is opened."""
    if not path.is_file():
        return None
    try:
        return onnx.load(path, load_external_data=False)
    except (DecodeError, OSError, ValueError):
        return None
