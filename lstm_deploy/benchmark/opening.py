"""From the name of a file or baseline to what is timed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lstm_deploy.artifacts import FORMATS
from lstm_deploy.benchmark.workloads import (
    ArtifactContender,
    Case,
    Contender,
    SessionContender,
    floor_model,
    sized_file,
)
from lstm_deploy.contract import Signature
from lstm_deploy.runtimes import open_runtime


def open_contender(
    kind: str, path: str, provider: str, threads: int, settings: Sequence[str], contract: str, origin: str
) -> Contender:
    """What a variant names; see there for `contract` and `origin`."""
    file = Path(path)
    if kind in FORMATS:
        return ArtifactContender(open_runtime(file, provider, threads, settings))
    match kind:
        case "floor":
            from lstm_deploy.runtimes import OnnxRuntime

            return ArtifactContender(OnnxRuntime(floor_model(Signature.from_json(contract)), provider, threads))
        case "openvino":
            from lstm_deploy.runtimes import OpenVinoRuntime

            return ArtifactContender(OpenVinoRuntime(file, threads, bf16="bf16" in settings))
        case "stock":
            from lstm_deploy.runtimes import open_session

            def opened(case: Case) -> Any:
                sized = sized_file(file, case)
                return open_session(sized if sized.exists() else file, provider, threads)

            return SessionContender(opened, Signature.from_json(contract))
    from lstm_deploy.benchmark.baselines import open_baseline

    return open_baseline(kind, file, provider, threads, settings, origin)
