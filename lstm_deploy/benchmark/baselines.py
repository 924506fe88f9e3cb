"""The baselines that need PyTorch: eager PyTorch, TorchScript, `torch.compile`, and files of the stock exporters.

Each is called in its fastest way: without the overhead of lifting, in one inference mode for the whole process, and
stock exports are made for the very sizes that are timed.
"""

import logging
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lstm_deploy.artifacts import Bundle
from lstm_deploy.benchmark.workloads import (
    END_TO_END,
    ArtifactWorkload,
    BenchCase,
    PreparedCall,
    Workload,
    check_streams,
    inputs_of,
    sized_file,
)
from lstm_deploy.contract import Array, Signature, sample_inputs, sizes_of
from lstm_deploy.errors import InputError, one_line
from lstm_deploy.lifting import (
    Lifted,
    StatefulCell,
    StatefulSequence,
    as_passed,
    cell_of,
    flatten,
    sources,
    specialize,
    state_of,
)
from lstm_deploy.runtimes import EagerRuntime, TorchRuntime, prepare

FOREVER = ExitStack()
"""Contexts that stay open until the process ends."""


class CarryingSequence(nn.RNNBase):
    """An `nn.LSTM`, `nn.GRU` or `nn.RNN` that continues from its last state, as one would write it by hand."""

    carried: Any
    """The state that it continues from."""

    def forward(self, input: Any, hx: Any = None) -> Any:  # noqa: A002, ARG002 - as PyTorch names them
        y, self.carried = super().forward(input, self.carried)
        return y, self.carried


class EagerWorkload:
    """The network as PyTorch runs it, after `adapt`, such as `torch.compile`."""

    provider: str
    signature: Signature

    def __init__(
        self,
        lifted: Lifted,
        provider: str,
        adapt: Callable[[Any], Any] = lambda module: module,
        settings: Sequence[str] = (),
    ) -> None:
        self.provider, self.signature = provider, lifted.signature
        self.lifted = lifted
        self.as_lifted: ArtifactWorkload = ArtifactWorkload(EagerRuntime(lifted, provider, settings=settings))
        self.recurrent: list[StatefulSequence] = carrying(lifted)
        self.module: Any = adapt(_original_call(lifted)) if self.recurrent else None

    def active(self) -> list[str]:
        return self.as_lifted.active()

    def prepare(self, case: BenchCase) -> PreparedCall:
        if case.scenario == "stream":
            check_streams(self.signature)
        plain = case.scenario != "rollout" and self.module is not None
        for child in self.recurrent:
            specialize(child, CarryingSequence if plain else StatefulSequence, StatefulCell)
        if not plain:
            return self.as_lifted.prepare(case)
        recurrent: Any = self.recurrent
        module, device = self.module, self.provider
        arrays = [row[self.signature.inputs[0].name] for row in inputs_of(self.signature, case)]
        position = self.lifted.output_positions[0]
        initial = list(self.signature.initial_state(case.batch).values())

        def restart() -> None:  # from arrays, as part of a call
            _set_states(self.lifted, recurrent, [torch.from_numpy(value).to(device) for value in initial])

        def run(x: Array) -> Array:
            returned = module(torch.from_numpy(x).to(device))
            y = returned if isinstance(returned, Tensor) else flatten(returned)[position][1]
            values: Array = y.cpu().numpy()
            return values

        def outputs() -> Array:
            restart()
            return np.stack([run(x) for x in arrays])

        first = arrays[0]
        resident = torch.from_numpy(first).to(device)

        def sequence() -> list[Array]:
            restart()
            y = run(first)
            return [y, *(state.cpu().numpy() for child in recurrent for state in state_of(child, child.carried) or ())]

        def advance() -> None:
            module(resident)
            if device == "cuda":
                torch.cuda.synchronize()

        restart()
        if case.scope != END_TO_END:
            return PreparedCall(advance, outputs)
        return PreparedCall((lambda: run(first)) if case.scenario == "stream" else sequence, outputs)


def carrying(lifted: Lifted) -> list[StatefulSequence]:
    """The recurrent modules in `lifted` that can carry their state by themselves; none where the outputs would change.

    Lifting takes up to a third of a small step in eager PyTorch, and a baseline that is slower than it need be
    flatters what it is compared with.
    """
    signature, convention = lifted.signature, lifted.convention
    children = [child for child in lifted.module.modules() if isinstance(child, StatefulSequence)]
    if convention.hardcodes_device or convention.mutates_inputs or lifted.packing:
        return []
    if list(map(len, signature.state_groups)) != [len(cell_of(child).states) for child in children]:
        return []
    if len(signature.inputs) > 1 or len(children) != len(lifted.flow.starts):
        return []
    device = next((parameter.device for parameter in lifted.parameters()), torch.device("cpu"))
    x, *states = (tensor.to(device) for tensor in _example(lifted, 2, 3, seed=1))
    first = lifted(x, *states)
    expected = (first[0], lifted(x, *first[len(signature.outputs) :])[0])
    for child in children:
        specialize(child, CarryingSequence, StatefulCell)
    _set_states(lifted, children, states)
    try:
        call, position = _original_call(lifted), lifted.output_positions[0]
        # Twice, as a forward may change the state that it returns.
        if all(torch.allclose(flatten(call(x))[position][1], value, atol=1e-5) for value in expected):
            return children
    except Exception:  # whatever the user's forward raises when it is called differently
        pass
    finally:
        for child in children:
            specialize(child, StatefulSequence, StatefulCell)
    return []


def open_baseline(
    kind: str, bundle: Path, provider: str, threads: int, settings: Sequence[str], origin: str
) -> Workload:
    """Open a baseline of the network that a bundle was made from, or that `origin` describes.

    Raises `InputError` where the network is not available and `ProviderError` where the device is not.
    """
    prepare(provider, threads, settings)
    torch.set_grad_enabled(False)
    lifted = _load(bundle, origin)
    if kind == "torchscript-trace":
        from lstm_deploy.lifting import trace  # which loads much that would count as this process's memory

        return ArtifactWorkload(
            TorchRuntime(trace(lifted).script, lifted.signature, provider, threads, settings=settings)
        )
    if "graph" in settings:
        return ArtifactWorkload(EagerRuntime(lifted, provider, threads, settings=settings))
    if kind == "compile":
        workload = EagerWorkload(lifted, provider, compiled)
        if workload.module is None:
            raise InputError("torch.compile is tried only on a module that its recurrent layers alone make recurrent.")
        return workload
    if kind != "eager":
        raise ValueError(f"There is no baseline {kind!r}.")
    if "no-onednn" in settings:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Intel GPUs
            torch.backends.mkldnn.set_flags(False)  # type: ignore[no-untyped-call]
    FOREVER.enter_context(torch.inference_mode())
    return EagerWorkload(lifted, provider, settings=settings)


def compiled(module: Any) -> Any:
    """The module through `torch.compile`, which compiles, and may fail, at the first call only."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    call = torch.compile(module, dynamic=False)

    def checked(x: Tensor) -> Any:
        try:
            return call(x)  # type: ignore[no-untyped-call]
        except Exception as error:  # from the compiler, a missing C++ compiler, or the compiled code
            raise InputError(f"torch.compile cannot compile this model here ({one_line(error)}).") from error

    return checked


def write_stock(bundle: Path, origin: str, kind: str, path: Path, cases: Sequence[BenchCase]) -> None:
    """Export a bundle's network with PyTorch's own exporter, as `path` or, for each size, as `sized_file` names it.

    `kind` is `stock-onnx`; `stock-fixed`, whose batch is fixed, too (the number of steps always is);
    `legacy-onnx`, the deprecated exporter; or `legacy-int8`, that with onnxruntime's `quantize_dynamic` in its default
    settings. Raises `InputError` where they fail.
    """
    lifted = _load(bundle, origin)
    signature = lifted.signature
    names: dict[str, Any] = {"input_names": signature.input_names, "output_names": signature.output_names}
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if kind.startswith("stock"):
                for sized, case in {sized_file(path, case): case for case in cases}.items():
                    _export_stock(lifted, sized, case, names, fixed=kind == "stock-fixed")
                return
            specs = (*signature.inputs, *signature.state_inputs, *signature.outputs, *signature.state_outputs)
            axes = {
                spec.name: {axis: dim for axis, dim in enumerate(spec.shape) if isinstance(dim, str)} for spec in specs
            }
            torch.onnx.export(lifted, _example(lifted, 2, 3), str(path), dynamo=False, dynamic_axes=axes, **names)
        if kind == "legacy-int8":
            from onnxruntime.quantization import quantize_dynamic

            quantize_dynamic(path, path)
    except Exception as error:  # exporters raise all kinds of errors
        raise InputError(f"PyTorch's exporter fails on this model ({one_line(error)}).") from error


def _export_stock(lifted: Lifted, path: Path, case: BenchCase, names: dict[str, Any], *, fixed: bool) -> None:
    batch = torch.export.Dim("batch")
    specs = (*lifted.signature.inputs, *lifted.signature.state_inputs)
    shapes = tuple({axis: batch for axis, dim in enumerate(spec.shape) if dim == "batch"} for spec in specs)
    torch.onnx.export(
        lifted,
        _example(lifted, case.batch if fixed else max(2, case.batch), case.seq_len),  # 1 would be taken for a constant
        path,
        dynamo=True,
        dynamic_shapes=None if fixed else (shapes,),
        external_data=False,
        verbose=False,
        **names,
    )


def _original_call(lifted: Lifted) -> Any:
    """The user's module as a function of its input; modules that carry their state ignore one that it requires."""
    if not lifted.convention.missing:
        return lifted.module
    zeros = [lifted.in_layout(torch.from_numpy(value)) for value in lifted.signature.initial_state(1).values()]
    return partial(lifted.module, **lifted.convention.arguments(lifted.flow.leaves(zeros)))


def _set_states(lifted: Lifted, children: Sequence[Any], states: Sequence[Tensor]) -> None:
    """Let modules that carry their state continue from `states`, ordered as in the contract."""
    for child, group in zip(children, lifted.signature.state_groups, strict=True):
        child.carried = as_passed(tuple(lifted.in_layout(states[position]) for position in group))


def _load(bundle: Path, origin: str) -> Lifted:
    if origin:
        signature = Bundle(bundle).signature
        return sources.load(sources.origin_from_json(origin), signature.state_layout, signature.inputs).lifted
    loaded = sources.load_source_of(Bundle(bundle))
    if loaded is None:
        raise InputError(f"The source of {bundle} is no longer there; leave out the baseline with --baseline none.")
    return loaded.lifted


def _example(lifted: Lifted, batch: int, seq_len: int, seed: int = 0) -> tuple[Tensor, ...]:
    """Inputs and initial states for a call."""
    signature = lifted.signature
    sizes = signature.clamp(sizes_of(signature.inputs, batch, seq_len))
    arrays = {
        **sample_inputs(signature.inputs, sizes, np.random.default_rng(seed)),
        **signature.initial_state(sizes["batch"]),
    }
    return tuple(torch.from_numpy(arrays[name]) for name in signature.input_names)
