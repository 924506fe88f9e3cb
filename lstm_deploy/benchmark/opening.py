"""Opens the workload of a variant, by the kind of its file or baseline."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lstm_deploy.artifacts import FORMATS
from lstm_deploy.benchmark.workloads import (
    ArtifactWorkload,
    BenchCase,
    SessionWorkload,
    Workload,
    null_model,
    sized_file,
)
from lstm_deploy.contract import Signature
from lstm_deploy.runtimes import open_runtime


def open_workload(
    kind: str, path: str, provider: str, threads: int, settings: Sequence[str], contract: str, origin: str
) -> Workload:
    """Open what the fields of a `Variant` describe."""
    file = Path(path)
    if kind in FORMATS:
        return ArtifactWorkload(open_runtime(file, provider, threads, settings))
    match kind:
        case "floor":
            from lstm_deploy.runtimes import OnnxRuntime

            return ArtifactWorkload(OnnxRuntime(null_model(Signature.from_json(contract)), provider, threads))
        case "openvino":
            from lstm_deploy.runtimes import OpenVinoRuntime

            return ArtifactWorkload(OpenVinoRuntime(file, threads, bf16="bf16" in settings))
        case "stock":
            from lstm_deploy.runtimes import open_session

            def session_for(case: BenchCase) -> Any:
                sized = sized_file(file, case)
                return open_session(sized if sized.exists() else file, provider, threads)

            return SessionWorkload(session_for, Signature.from_json(contract))
    from lstm_deploy.benchmark.baselines import open_baseline

    return open_baseline(kind, file, provider, threads, settings, origin)
