"""Writing the artifacts of a model anew, so that existing ones can be held against them; and `validate`, which does."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from lstm_deploy.artifacts import FORMATS, ParityReport, as_path, read_interface
from lstm_deploy.errors import CutError, LstmDeployError, one_line
from lstm_deploy.progress import OnProgress, silent
from lstm_deploy.validation import Subject, Written, validate as compare

if TYPE_CHECKING:
    from torch import nn

    from lstm_deploy.lifting import Lifted, Origin


def validate(
    target: str | os.PathLike[str],
    *,
    reference: "nn.Module | Origin | str | os.PathLike[str] | None" = None,
    provider: str = "cpu",
    thorough: bool = False,
    names: Mapping[str, str] | None = None,
    atol: float | Mapping[str, float] | None = None,
    rtol: float | Mapping[str, float] | None = None,
    trust_c: bool = False,
    output: str | os.PathLike[str] | None = None,
    on_progress: OnProgress = silent,
) -> ParityReport:
    """Compare every artifact of a bundle, or any ONNX, TorchScript or C file, with the model it should compute.

    Both are paths or a `Bundle`; `reference` may also be the live module, or an `Origin` that says whose weights a
    file has: the model's checkpoint, another artifact or another bundle. Without one it is the file that the bundle was
    exported from, if it is still there and PyTorch is installed; else the golden trace in the bundle. The graph is held
    against the one that the reference is written as now, node by node, and the outputs against PyTorch's. `thorough`
    tries more, for minutes. `names` maps the contract's names of inputs and outputs to the file's, for a third-party
    ONNX file. `atol` and `rtol` allow differences up to `atol + rtol * size` in place of the table in `tolerances`, for
    all outputs or by name. `trust_c` allows C that was not exported on this machine to be compiled and run, here and
    from then on. To `output` a third-party ONNX file is written with the contract, if it passes: what `open` takes.

    A runtime that crashes is a failed check. Raises `InputError` where nothing is there to compare with or a file
    cannot be read, and `ProviderError` for a provider that is not there.
    """
    return compare(
        target,
        reference=reference,
        provider=provider,
        thorough=thorough,
        names=names,
        atol=atol,
        rtol=rtol,
        trust_c=trust_c,
        output=None if output is None else as_path(output),
        write_anew=write_anew,
        on_progress=on_progress,
    )


def write_anew(
    lifted: "Lifted", subjects: Sequence[Subject], folder: Path, on_progress: OnProgress = silent
) -> Written:
    """Write each artifact as `export` would write it of `lifted`, into folders below `folder`."""
    signature = lifted.signature
    written: dict[str, Path | str] = {}
    graphs: dict[str, Path | str] = {}
    for number, subject in enumerate(subjects):
        on_progress(number, len(subjects), f"writing {subject.name} anew")
        place = folder / f"anew{number}" / subject.name
        place.parent.mkdir()
        contract = subject.bundle.signature if subject.bundle else subject.contract
        if contract is not None:  # what the model is for is no part of a live module
            lifted.signature = replace(signature, task=contract.task, state_policy=contract.state_policy)
        try:
            written[subject.name] = _write(lifted, subject, place, graphs, folder)
        except CutError:  # no case here would be as long as those that differ
            raise
        except Exception as error:  # what writes it may fail here, as TorchScript does on Python 3.14
            reason = str(error).rstrip(".") if isinstance(error, LstmDeployError) else one_line(error)
            written[subject.name] = f"it cannot be written anew ({reason})"
        finally:
            lifted.signature = signature
    graph = graphs.get("float32")
    return Written(written, graph if isinstance(graph, Path) else None)


def _write(lifted: "Lifted", subject: Subject, path: Path, graphs: dict[str, Path | str], folder: Path) -> Path | str:
    """Write one artifact; `graphs` has the ONNX graphs that were written, by precision."""
    if subject.path.suffix == FORMATS["torchscript"].suffix:
        return _write_torchscript(lifted, subject.precision, path)
    if subject.path.suffix == FORMATS["c"].suffix:
        return _write_c(_graph(lifted, subject, "float32", graphs, folder), subject, path)
    graph = _graph(lifted, subject, subject.precision, graphs, folder)
    if subject.model is None or isinstance(graph, str):
        return graph
    from lstm_deploy.exporters.onnx_rollout import export_rollout

    export_rollout(graph, path)
    return path


def _graph(
    lifted: "Lifted", subject: Subject, precision: str, graphs: dict[str, Path | str], folder: Path
) -> Path | str:
    """The ONNX graph of a precision, written once; or why there is none."""
    if precision not in graphs:
        path = folder / f"anew.{precision}.onnx"
        if precision == "float32":
            from lstm_deploy.exporters.onnx import export_onnx

            export_onnx(lifted, path)
            graphs[precision] = path
        else:
            graphs[precision] = _lowered(_graph(lifted, subject, "float32", graphs, folder), subject, precision, path)
    return graphs[precision]


def _lowered(source: Path | str, subject: Subject, precision: str, path: Path) -> Path | str:
    """The graph of a lower precision, with the settings that the bundle says it was made with."""
    evidence = None
    if subject.bundle is not None:
        evidence = subject.bundle.find("onnx", precision).evidence
    if evidence is None or isinstance(source, str):
        return f"it is not known how it was rounded to {precision}"
    if precision == "float16":
        from lstm_deploy.exporters.precision.float16_onnx import export_float16

        assert subject.bundle is not None
        export_float16(source, path, subject.bundle.find("onnx", precision).state_dtype)
    else:
        from lstm_deploy.exporters.precision.int8_onnx import Settings, quantize_onnx

        quantize_onnx(source, path, Settings.of(evidence.settings), evidence.kept_float)
    return path


def _write_torchscript(lifted: "Lifted", precision: str, path: Path) -> Path:
    from lstm_deploy.exporters.torchscript import export_torchscript

    if precision == "int8":
        from lstm_deploy.exporters.precision.int8_torchscript import quantized_copy

        lifted = quantized_copy(lifted)[0]
    export_torchscript(lifted, path)
    return path


def _write_c(graph: Path | str, subject: Subject, path: Path) -> Path | str:
    from lstm_deploy.exporters.c.writer import export_c

    if isinstance(graph, str):
        return graph
    quantized: list[str] = []
    if subject.precision == "int8":
        from lstm_deploy.artifacts import onnx_graph
        from lstm_deploy.exporters.precision.int8_onnx import quantizable_nodes

        evidence = subject.artifact.evidence if subject.artifact else None
        if evidence is None:
            return "it is not known which layers were rounded to int8"
        nodes = quantizable_nodes(onnx_graph.load(graph), "c")
        quantized = [node.name for label, node in nodes.items() if label not in evidence.kept_float]
    export_c(graph, path, read_interface(subject.path).name, quantized)
    return path
