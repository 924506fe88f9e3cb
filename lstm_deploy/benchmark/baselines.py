"""What a user would have without this project: eager PyTorch, TorchScript, `torch.compile`, and the stock exporters.

Each is called at its best: without what lifting adds, in one inference mode for the whole process, and a stock export
is made for the very sizes that it is timed at.
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
    ArtifactContender,
    Case,
    Contender,
    Prepared,
    check_streams,
    inputs_of,
    sized_file,
)
from lstm_deploy.contract import Array, by_module, sample_inputs, sizes_of
from lstm_deploy.errors import InputError, one_line
from lstm_deploy.lifting import Lifted, StatefulLSTM, flatten, sources
from lstm_deploy.runtimes import EagerRuntime, TorchRuntime, prepare

FOREVER = ExitStack()
"""What holds for the whole process."""


class CarryingLSTM(nn.LSTM):
    """An `nn.LSTM` that goes on from where it ended, as somebody would write it by hand."""

    carried: Any
    """The state that it goes on from."""

    def forward(self, input: Any, hx: Any = None) -> Any:  # noqa: A002, ARG002 - as nn.LSTM names them
        y, self.carried = super().forward(input, self.carried)
        return y, self.carried


class EagerContender:
    """The network as PyTorch runs it; `adapt` is what is done to it first, as `torch.compile`."""

    def __init__(
        self,
        lifted: Lifted,
        provider: str,
        adapt: Callable[[Any], Any] = lambda module: module,
        settings: Sequence[str] = (),
    ) -> None:
        self.provider, self.signature = provider, lifted.signature
        self.lifted = lifted
        self.as_lifted = ArtifactContender(EagerRuntime(lifted, provider, settings=settings))
        self.recurrent = carrying(lifted)
        self.module = adapt(_called(lifted)) if self.recurrent else None

    def active(self) -> list[str]:
        return self.as_lifted.active()

    def prepare(self, case: Case) -> Prepared:
        if case.scenario == "stream":
            check_streams(self.signature)
        plain = case.scenario != "rollout" and self.module is not None
        for child in self.recurrent:
            child.__class__ = CarryingLSTM if plain else StatefulLSTM  # type: ignore[assignment]
        if not plain:
            return self.as_lifted.prepare(case)
        module: Any = self.module
        recurrent: Any = self.recurrent
        signature, device = self.signature, self.provider
        name = signature.inputs[0].name
        arrays = [row[name] for row in inputs_of(signature, case)]
        position = self.lifted.output_positions[0]

        initial = list(signature.initial_state(case.batch).values())

        def restart() -> None:
            states = [torch.from_numpy(value).to(device) for value in initial]
            for child, state in zip(recurrent, by_module(states), strict=True):
                child.carried = tuple(map(self.lifted.in_layout, state))

        def computed(x: Tensor) -> Tensor:
            returned = module(x)
            return returned if isinstance(returned, Tensor) else flatten(returned)[position][1]

        def outputs() -> Array:
            restart()
            return np.stack([computed(torch.from_numpy(x).to(device)).cpu().numpy() for x in arrays])

        first = arrays[0]
        resident = torch.from_numpy(first).to(device)

        def step() -> Array:
            y: Array = computed(torch.from_numpy(first).to(device)).cpu().numpy()
            return y

        def sequence() -> list[Array]:
            restart()
            y = step()
            return [y, *(state.cpu().numpy() for child in recurrent for state in child.carried or ())]

        def advance() -> None:
            module(resident)
            if device == "cuda":
                torch.cuda.synchronize()

        restart()
        if case.scope != END_TO_END:
            return Prepared(advance, outputs)
        return Prepared(step if case.scenario == "stream" else sequence, outputs)


def carrying(lifted: Lifted) -> list[StatefulLSTM]:
    """The LSTMs in `lifted` that can carry their state by themselves; none where that computes something else.

    What lifting adds takes up to a third of a small step in eager PyTorch, and a baseline that is slower than it
    need be flatters.
    """
    signature = lifted.signature
    convention = lifted.convention
    plain = not (convention.hardcodes_device or convention.mutates_inputs)
    children = [child for child in lifted.module.modules() if isinstance(child, StatefulLSTM)]
    if not plain or lifted.packs or len(signature.inputs) > 1 or len(children) != len(lifted.starts):
        return []
    sizes = signature.clamp(sizes_of(signature.inputs, 2, 3))
    x = torch.from_numpy(sample_inputs(signature.inputs, sizes, np.random.default_rng(1))[signature.inputs[0].name])
    states = [torch.from_numpy(value) for value in signature.initial_state(sizes["batch"]).values()]
    device = next((parameter.device for parameter in lifted.parameters()), torch.device("cpu"))
    x, states = x.to(device), [state.to(device) for state in states]
    expected = lifted(x, *states)[0]
    for child, state in zip(children, by_module(states), strict=True):
        child.__class__ = CarryingLSTM  # type: ignore[assignment]
        child.carried = tuple(map(lifted.in_layout, state))
    try:
        if torch.allclose(flatten(_called(lifted)(x))[lifted.output_positions[0]][1], expected, atol=1e-5):
            return children
    except Exception:  # whatever the user's forward raises when it is called in another way
        pass
    finally:
        for child in children:
            child.__class__ = StatefulLSTM
    return []


def open_baseline(
    kind: str, bundle: Path, provider: str, threads: int, settings: Sequence[str], origin: str
) -> Contender:
    """A baseline of the network that a bundle was made from, or that `origin` says.

    Raises `InputError` where that is gone and `ProviderError` where there is no such device.
    """
    prepare(provider, threads, settings)
    torch.set_grad_enabled(False)
    lifted = _load(bundle, origin)
    if kind == "torchscript-trace":
        from lstm_deploy.lifting import trace  # which loads much that would count as this process's memory

        return ArtifactContender(
            TorchRuntime(trace(lifted).script, lifted.signature, provider, threads, settings=settings)
        )
    if "graph" in settings:
        return ArtifactContender(EagerRuntime(lifted, provider, threads, settings=settings))
    if kind == "compile":
        contender = EagerContender(lifted, provider, compiled)
        if contender.module is None:
            raise InputError("torch.compile is tried only on a module that its LSTMs alone make recurrent.")
        return contender
    if kind != "eager":
        raise ValueError(f"There is no baseline {kind!r}.")
    if "no-onednn" in settings:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Intel GPUs
            torch.backends.mkldnn.set_flags(False)  # type: ignore[no-untyped-call]
    FOREVER.enter_context(torch.inference_mode())
    return EagerContender(lifted, provider, settings=settings)


def compiled(module: Any) -> Any:
    """The module through `torch.compile`, which says nothing until the first call."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    call = torch.compile(module, dynamic=False)

    def tried(x: Tensor) -> Any:
        try:
            return call(x)  # type: ignore[no-untyped-call]
        except Exception as error:  # of the compiler, of a missing C++ compiler, of what it made
            raise InputError(f"torch.compile cannot compile this model here ({one_line(error)}).") from error

    return tried


def _called(lifted: Lifted) -> Any:
    """The user's module as a call of its input; a state that it demands is not looked at by LSTMs that carry theirs."""
    if not lifted.convention.state_parameters:
        return lifted.module
    zeros = [torch.from_numpy(value) for value in lifted.signature.initial_state(1).values()][:2]
    return partial(lifted.module, **lifted.convention.state_arguments((zeros[0], zeros[1])))


def _load(bundle: Path, origin: str) -> Lifted:
    if origin:
        return sources.load(sources.origin_from_json(origin), Bundle(bundle).signature.state_layout).lifted
    loaded = sources.load_source_of(Bundle(bundle))
    if loaded is None:
        raise InputError(f"The source of {bundle} is not there any more; leave out the baseline with --baseline none.")
    return loaded.lifted


def write_stock(bundle: Path, origin: str, kind: str, path: Path, cases: Sequence[Case]) -> None:
    """Export a bundle's network with PyTorch's own exporter, as `path` or, for each size, as `sized_file` names it.

    `kind` is `stock-onnx`, `stock-fixed` for one whose batch is fixed, too (the number of steps is, whatever one asks
    for), `legacy-onnx` for the deprecated exporter, or `legacy-int8` for that and onnxruntime's `quantize_dynamic` as
    it comes. Raises `InputError` where they fail.
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
    except Exception as error:  # they raise whatever they meet
        raise InputError(f"PyTorch's exporter fails on this model ({one_line(error)}).") from error


def _export_stock(lifted: Lifted, path: Path, case: Case, names: dict[str, Any], *, fixed: bool) -> None:
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


def _example(lifted: Lifted, batch: int, seq_len: int) -> tuple[Tensor, ...]:
    signature = lifted.signature
    sizes = signature.clamp(sizes_of(signature.inputs, batch, seq_len))
    arrays = {
        **sample_inputs(signature.inputs, sizes, np.random.default_rng(0)),
        **signature.initial_state(sizes["batch"]),
    }
    return tuple(torch.from_numpy(arrays[name]) for name in signature.input_names)
