"""Which things a benchmark times: every artifact of its targets, and what each would be used instead of."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import onnx
from google.protobuf.message import DecodeError
from msgspec import Struct
from msgspec.structs import replace

from lstm_deploy.artifacts import MANIFEST, SUFFIXES, Artifact, Bundle, CrashError, onnx_graph, run_isolated
from lstm_deploy.benchmark import roofline
from lstm_deploy.benchmark.roofline import Work
from lstm_deploy.benchmark.workloads import END_TO_END, SCOPES, Case
from lstm_deploy.errors import InputError
from lstm_deploy.runtimes import PROVIDERS, cannot_run

STEPS = ("stream", "sequence")
"""What a model itself is timed in; a rollout is compared with the model called for each step, too."""


class Baseline(NamedTuple):
    """Something that a user would have without this project."""

    kind: str
    """What opens it: see `contenders.open_contender`."""
    what: str
    settings: tuple[str, ...] = ()
    providers: tuple[str, ...] = ("cpu", "cuda")
    scopes: tuple[str, ...] = SCOPES
    scenarios: tuple[str, ...] = STEPS
    precision: str = "float32"
    needs_source: bool = True
    """Whether it is made from the PyTorch model; else from the contract or the ONNX file."""


BASELINES = {
    "eager": Baseline("eager", "PyTorch, on CUDA without TF32", scenarios=(*STEPS, "rollout")),
    "eager-tf32": Baseline("eager", "PyTorch with TF32", ("tf32",), ("cuda",), precision="tf32"),
    "eager-no-onednn": Baseline("eager", "PyTorch without oneDNN", ("no-onednn",), ("cpu",)),
    "eager-graph": Baseline("eager", "PyTorch as a CUDA graph", ("graph",), ("cuda",)),
    "torchscript-trace": Baseline("torchscript-trace", "torch.jit.trace"),
    "compile": Baseline("compile", "torch.compile"),
    "stock-onnx": Baseline("stock-onnx", "torch.onnx.export, dynamic batch, then session.run", scopes=(END_TO_END,)),
    "stock-fixed": Baseline("stock-fixed", "the same for one batch only", scopes=(END_TO_END,)),
    "legacy-onnx": Baseline("legacy-onnx", "torch.onnx.export(dynamo=False), then session.run", scopes=(END_TO_END,)),
    "legacy-int8": Baseline(
        "legacy-int8",
        "the same through quantize_dynamic",
        providers=("cpu",),
        scopes=(END_TO_END,),
        precision="int8",
    ),
    "openvino": Baseline("openvino", "model.onnx in OpenVINO", (), ("cpu",), needs_source=False),
    "openvino-bf16": Baseline(
        "openvino", "the same in bfloat16", ("bf16",), ("cpu",), precision="bfloat16", needs_source=False
    ),
    "floor": Baseline("floor", "a model that does nothing: what dispatch alone costs", needs_source=False),
}
"""By the names of the command line; the first that runs is what ratios refer to."""
CUDA_SETTINGS: dict[str, tuple[tuple[str, ...], ...]] = {
    "onnx": ((), ("graph",), ("tf32",), ("tf32", "graph")),
    "torchscript": ((), ("graph",)),
}
"""Settings with which artifacts are run on CUDA, for the formats that take some. float16 has no TF32."""


class Variant(Struct, frozen=True, kw_only=True):
    """One thing to time."""

    name: str
    group: str = ""
    """The target whose baseline its ratios refer to; empty for all that have none, which refer to the first of them."""
    kind: str
    path: str
    artifact: str
    """Name of the file; empty for a baseline."""
    provider: str
    precision: str
    settings: tuple[str, ...] = ()
    scopes: tuple[str, ...] = SCOPES
    scenarios: tuple[str, ...] = STEPS
    contract: str = ""
    """JSON of the model's contract, for files that carry none."""
    origin: str = ""
    """JSON of a `sources.Origin` that says which PyTorch model it is of; empty for what the bundle was made from."""
    twin: bool = False
    """Whether it is the baseline once more, which shows the noise."""
    work: Work | None = None
    """What one step has to compute and read."""

    @property
    def may_fail(self) -> bool:
        """Whether a run goes on without it: baselines, and graphs, which cannot hold every model."""
        return not self.artifact or "graph" in self.settings

    def takes_part(self, case: Case) -> bool:
        """Whether it is timed in a case; a captured graph has its buffers bound, so plain calls are not it."""
        plain = case.scenario != "stream" and case.scope == END_TO_END
        return (
            case.scenario in self.scenarios and case.scope in self.scopes and not ("graph" in self.settings and plain)
        )


class Wanted(NamedTuple):
    """What was asked for."""

    providers: Sequence[str]
    baselines: Sequence[str]
    cases: Sequence[Case]
    unvalidated: bool
    origin: str
    """See `Variant.origin`."""


def variants_of(targets: Sequence[Path], wanted: Wanted, folder: Path) -> tuple[list[Variant], list[str]]:
    """For each target its baselines, then its artifacts, on every provider; and what was left out, and why.

    What baselines need is written to `folder`. Raises `InputError` for an artifact that has not passed `validate`.
    """
    found: list[Variant] = []
    left_out: list[str] = []
    labels = _labels(targets)
    for number, (target, label) in enumerate(zip(targets, labels, strict=True)):
        prefix = f"{label}: " if len(targets) > 1 else ""
        bundle = Bundle(target) if target.is_dir() else None
        for provider in dict.fromkeys(wanted.providers):
            suffix = f" {provider}" if len(wanted.providers) > 1 else ""
            made = folder / f"{number}-{provider}"
            made.mkdir()
            if bundle:
                works = _works(bundle)
                baselines, reasons = _baselines(bundle, provider, wanted, made, works)
                artifacts, refused = _artifacts(bundle, provider, wanted, works)
                left_out += [f"{prefix}{reason}" for reason in (*reasons, *refused)]
            else:
                baselines, artifacts = [], _single(target, provider, wanted)
                if wanted.baselines:
                    left_out.append(f"baselines of {label}: they stand beside bundles only")
            group = label if any(each.kind != "floor" for each in baselines) else ""
            found += [
                replace(each, name=f"{prefix}{each.name}{suffix}", group=group) for each in (*baselines, *artifacts)
            ]
    return found, left_out


def _labels(targets: Sequence[Path]) -> list[str]:
    """What targets are called: by their names, or by their paths where two have the same name."""
    if len({target.resolve() for target in targets}) < len(targets):
        raise InputError("A target is named twice; name each once: what is timed first is timed again by itself.")
    names = [target.name for target in targets]
    return [name if names.count(name) == 1 else str(target) for name, target in zip(names, targets, strict=True)]


def _baselines(
    bundle: Bundle, provider: str, wanted: Wanted, folder: Path, works: dict[str, Work]
) -> tuple[list[Variant], list[str]]:
    found, left_out = [], []
    for name in dict.fromkeys(wanted.baselines):
        baseline = BASELINES[name]
        if provider not in baseline.providers:
            left_out.append(f"{name}: not on {provider}")
            continue
        if baseline.needs_source and (reason := _no_source(bundle, wanted.origin)):
            left_out.append(f"{name}: {reason}")
            continue
        path = bundle.path
        if baseline.kind == "openvino":
            if find_spec("openvino") is None:
                left_out.append(f'{name}: OpenVINO is not installed; pip install "lstm-deploy[openvino]"')
                continue
            try:
                path = bundle.file(bundle.find("onnx"))
            except InputError as error:
                left_out.append(f"{name}: {error}")
                continue
        kind = baseline.kind
        if kind in ("stock-onnx", "stock-fixed", "legacy-onnx", "legacy-int8"):
            path, kind = folder / f"{name}.onnx", "stock"
            try:
                cases = [case for case in wanted.cases if case.scenario in baseline.scenarios]
                run_isolated(_write_stock, bundle.path, wanted.origin, name, path, cases)
            except (InputError, CrashError) as error:
                left_out.append(f"{name}: {error}")
                continue
        found.append(
            Variant(
                name=name,
                kind=kind,
                path=str(path),
                artifact="",
                provider=provider,
                precision=baseline.precision,
                settings=baseline.settings,
                scopes=baseline.scopes,
                scenarios=baseline.scenarios,
                contract=bundle.signature.to_json(),
                origin=wanted.origin,
                work=None if name == "floor" else works.get(baseline.precision),
            )
        )
    return found, left_out


def _write_stock(bundle: Path, origin: str, kind: str, path: Path, cases: Sequence[Case]) -> None:
    """To be run in a process of its own: an exporter that crashes, or changes what is global, does so there."""
    from lstm_deploy.benchmark.baselines import write_stock

    write_stock(bundle, origin, kind, path, cases)


def _no_source(bundle: Bundle, origin: str) -> str:
    if find_spec("torch") is None:
        return "PyTorch is not installed"
    if origin or bundle.source_path:
        return ""
    return (
        "the model is gone, has changed since, or would have to run code of yours; export it again, or name it with "
        "--reference, and --model"
    )


def _artifacts(
    bundle: Bundle, provider: str, wanted: Wanted, works: dict[str, Work]
) -> tuple[list[Variant], list[str]]:
    found, left_out = [], []
    for artifact in bundle.manifest.exported:
        if why := cannot_run(artifact.format, artifact.precision, provider):
            left_out.append(f"{artifact.path}: {why}")
        else:
            found += _variants(bundle, artifact, provider, wanted, works)
    return found, left_out


def _single(target: Path, provider: str, wanted: Wanted) -> list[Variant]:
    """A file that was named itself; what its bundle says of it holds."""
    if (target.parent / MANIFEST).is_file():
        bundle = Bundle(target.parent)
        for artifact in bundle.manifest.exported:
            if artifact.path == target.name:
                return _variants(bundle, artifact, provider, wanted, _works(bundle))
    if not target.is_file():
        raise InputError(f"{target} does not exist; give a bundle or an artifact.")
    if target.suffix not in SUFFIXES:
        raise InputError(f"{target} is neither a bundle nor an artifact; give one that lstm-deploy export wrote.")
    if not wanted.unvalidated:
        raise InputError(
            f"{target} has passed no validation that is known of; validate it with lstm-deploy validate, then time it "
            "with --unvalidated."
        )
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
            scenarios=(*STEPS, "rollout"),
            work=roofline.work_of(model) if model else None,
        )
    ]


def _variants(
    bundle: Bundle, artifact: Artifact, provider: str, wanted: Wanted, works: dict[str, Work]
) -> list[Variant]:
    """An artifact in each of the ways that it can be run on a provider."""
    if not wanted.unvalidated and (reason := _unproven(bundle, artifact, provider)):
        where = "" if provider == "cpu" else f" --provider {provider}"
        raise InputError(
            f"{artifact.path} of {bundle.path} {reason}; run lstm-deploy validate {bundle.path}{where}, "
            "or time it all the same with --unvalidated."
        )
    is_rollout = artifact in bundle.manifest.rollouts
    has_settings = bool(PROVIDERS[provider].settings) and not is_rollout
    ways = CUDA_SETTINGS.get(artifact.format, ((),)) if has_settings else ((),)
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
            scenarios=("rollout",) if is_rollout else (*STEPS, "rollout"),
            work=works.get("tf32" if "tf32" in settings else artifact.precision),
        )
        for settings in ways
        if not ("tf32" in settings and artifact.precision != "float32")
    ]


def _unproven(bundle: Bundle, artifact: Artifact, provider: str) -> str:
    """Why the bundle does not vouch for an artifact on a provider; empty where it does."""
    if bundle.changed(artifact):
        return "is not the file that was validated"
    manifest = bundle.manifest
    report = manifest.parity if provider == "cpu" else manifest.parity_elsewhere.get(provider)
    checks = [check for check in report.checks if check.artifact == artifact.path] if report else []
    if not checks:
        return f"has not been validated on {provider}"
    return "" if all(check.passed for check in checks) else "has failed validation"


def _works(bundle: Bundle) -> dict[str, Work]:
    """What one step has to compute and read, by precision."""
    artifacts = [artifact for artifact in bundle.manifest.artifacts if artifact.format == "onnx"]
    graphs = {artifact.precision: _graph(bundle.path / artifact.path) for artifact in artifacts}
    found = {precision: work for precision, graph in graphs.items() if graph and (work := roofline.work_of(graph))}
    if "float32" in found:
        found["tf32"] = roofline.in_precision(found["float32"], "tf32")
    return found


def _graph(path: Path) -> onnx.ModelProto | None:
    """The graph of a file; none where it cannot be read, which is told when it is opened."""
    try:
        return onnx.load(path, load_external_data=False)
    except (DecodeError, OSError, ValueError):
        return None
