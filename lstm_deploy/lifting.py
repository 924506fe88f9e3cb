"""Lifting: any module with `nn.LSTM` inside becomes one whose hidden state is explicit.

    Lifted.forward(x, …, h_in, c_in) -> (y, …, h_out, c_out)

The user's code stays as it is: each `nn.LSTM` in a copy of the module is given another class, which takes
its state from a port of the lifted module instead of from its caller, and leaves its final state there.
"""

import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, cast

import numpy as np
import torch
from msgspec.structs import replace
from torch import Tensor, nn

from lstm_deploy.errors import LiftingError
from lstm_deploy.sampling import sample
from lstm_deploy.signature import (
    Dim,
    DType,
    RecurrentSpec,
    Signature,
    StateLayout,
    StatePolicy,
    Streaming,
    TensorSpec,
)
from lstm_deploy.tasks import Task

Path = tuple[str | int, ...]


class Port:
    """Where a stateful LSTM finds the state to start from and leaves the state it ends with.

    Neither a module nor a tensor, so that tracers see the tensors and not the attribute.
    """

    __slots__ = ("final", "given")

    def __init__(self) -> None:
        self.given: tuple[Tensor, Tensor] | None = None
        self.final: tuple[Tensor, Tensor] | None = None


class StatefulLSTM(nn.LSTM):
    """An `nn.LSTM` whose state comes from its port, whatever its caller passes or leaves out."""

    port: Port

    def forward(self, input: Any, hx: Any = None) -> Any:  # noqa: A002, ARG002 - as nn.LSTM names them
        given, self.port.given = self.port.given, None
        if given is None:
            raise LiftingError(
                "An LSTM is called more than once in one forward, so it has no single state; "
                "give each call an nn.LSTM of its own."
            )
        output, self.port.final = self.compute(input, *given)
        return output, self.port.final

    def compute(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """As `nn.LSTM.forward`; `exporters.lowering` replaces this with an operator that ONNX has."""
        return super().forward(x, (h, c))


class Lifted(nn.Module):
    """A module with explicit state; `signature` names its inputs and outputs, in order."""

    signature: Signature

    def __init__(
        self, module: nn.Module, recurrent: Sequence[RecurrentSpec], inputs: int, state_layout: StateLayout
    ) -> None:
        """Take over `module`, which must not be used otherwise from here on."""
        super().__init__()
        self.module = module
        self.inputs = inputs
        self.batch_first_state = state_layout == "batch-first"
        self.kept: tuple[int, ...] = ()
        """Which of the tensors that `module` returns are outputs; the others are the state."""
        self.lstms: list[StatefulLSTM] = []  # a plain list: `module` already registers them
        for spec in recurrent:
            lstm = module.get_submodule(spec.module)
            lstm.__class__ = StatefulLSTM
            self.lstms.append(cast(StatefulLSTM, lstm))
            self.lstms[-1].port = Port()

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """All inputs, then `h` and `c` of each LSTM; returns all outputs, then the new `h` and `c`."""
        returned = flatten(self.call(*tensors))
        outputs = [returned[index][1] for index in self.kept]
        return (*outputs, *(self._swap_layout(state) for state in self.final_states()))

    def call(self, *tensors: Tensor) -> Any:
        """What `module` itself returns on the inputs when it starts from the given states."""
        states = [self._swap_layout(state) for state in tensors[self.inputs :]]
        for lstm, h, c in zip(self.lstms, states[::2], states[1::2], strict=True):
            lstm.port.given, lstm.port.final = (h, c), None
        return self.module(*tensors[: self.inputs])

    def final_states(self) -> list[Tensor]:
        """`h` and `c` of each LSTM after the latest forward, layers first."""
        finals = [lstm.port.final for lstm in self.lstms]
        if None in finals:
            raise LiftingError(
                "An LSTM of this module is never called by forward, so it has no state to export; remove it."
            )
        return [state for final in finals if final is not None for state in final]

    def _swap_layout(self, state: Tensor) -> Tensor:
        return state.transpose(0, 1) if self.batch_first_state else state


def lift(
    module: nn.Module,
    inputs: Sequence[TensorSpec],
    *,
    task: Task | None = None,
    state_policy: StatePolicy = "reset",
    state_layout: StateLayout = "layers-first",
) -> Lifted:
    """Make the state of every `nn.LSTM` in a copy of `module` explicit, and measure its contract.

    `inputs` are the arguments of `forward`, in order. Raises `LiftingError` where the module has no
    `nn.LSTM`, does not run on such inputs, or computes something else once lifted.
    """
    original = deepcopy(module).cpu().float().eval().requires_grad_(False)
    contract = Signature(
        inputs=tuple(inputs),
        outputs=(),
        recurrent=_recurrent_specs(original),
        state_layout=state_layout,
        state_policy=state_policy,
        task=task,
    )
    lifted = Lifted(deepcopy(original), contract.recurrent, len(inputs), state_layout).eval()
    with torch.no_grad(), warnings.catch_warnings():
        # Said once in a process, of every projection on the CPU; nothing that a user could act on.
        warnings.filterwarnings("ignore", message="LSTM with projections is not supported with oneDNN")
        lifted.kept, contract = _measure_outputs(original, lifted, contract)
        streaming, reason = _measure_streaming(lifted, contract)
    lifted.signature = replace(contract, streaming=streaming, streaming_reason=reason)
    return lifted


def flatten(value: Any, path: Path = ()) -> list[tuple[Path, Tensor]]:
    """The tensors in nested tuples, lists and mappings, each with the keys that lead to it."""
    if isinstance(value, Tensor):
        return [(path, value)]
    if isinstance(value, Mapping):
        return [leaf for key, child in value.items() for leaf in flatten(child, (*path, str(key)))]
    if isinstance(value, tuple | list):
        return [leaf for index, child in enumerate(value) for leaf in flatten(child, (*path, index))]
    return []


def example(signature: Signature, sizes: Mapping[str, int], seed: int = 0) -> tuple[Tensor, ...]:
    """Arguments for `Lifted.forward`: random inputs of the given sizes and the initial state."""
    rng = np.random.default_rng(seed)
    inputs = [sample(spec, sizes, rng) for spec in signature.inputs]
    state = signature.initial_state(sizes["batch"])
    return tuple(torch.from_numpy(value) for value in (*inputs, *state.values()))


def example_sizes(signature: Signature) -> dict[str, int]:
    """A size for each dynamic dimension: all different, none 1 (tracers treat 1 as a constant)."""
    names = sorted({dim for spec in signature.inputs for dim in spec.shape if isinstance(dim, str)} | {"batch"})
    return {name: 2 if name == "batch" else 5 + index for index, name in enumerate(names)}


def _recurrent_specs(module: nn.Module) -> tuple[RecurrentSpec, ...]:
    lstms = {}
    for path, child in module.named_modules():
        if isinstance(child, nn.GRU | nn.RNN):
            raise LiftingError(
                f"{path or 'The module'} is an nn.{type(child).__name__}, which has no cell state and is not "
                "supported; use an nn.LSTM."
            )
        if isinstance(child, nn.LSTM):
            if type(child) is not nn.LSTM:
                raise LiftingError(
                    f"{path or 'The module'} is a {type(child).__name__}, a subclass of nn.LSTM whose "
                    "computation is not known; use nn.LSTM itself."
                )
            lstms[path] = child
    if not lstms:
        raise LiftingError(f"{type(module).__name__} has no nn.LSTM inside, so there is no state to make explicit.")
    return tuple(
        RecurrentSpec(
            module=path,
            prefix="" if len(lstms) == 1 else path.replace(".", "_") + "_",
            input_size=lstm.input_size,
            hidden_size=lstm.hidden_size,
            proj_size=lstm.proj_size,
            num_layers=lstm.num_layers,
            num_directions=2 if lstm.bidirectional else 1,
        )
        for path, lstm in lstms.items()
    )


def _measure_outputs(original: nn.Module, lifted: Lifted, contract: Signature) -> tuple[tuple[int, ...], Signature]:
    """Which returned tensors are outputs, and their names and shapes, seen by running both modules.

    Each dynamic dimension of the inputs is varied in turn: what varies with it in an output bears its name.
    """
    sizes = example_sizes(contract)
    leaves = _run_beside(original, lifted, contract, sizes)
    finals = {id(state) for state in lifted.final_states()}
    kept = tuple(index for index, (_, tensor) in enumerate(leaves) if id(tensor) not in finals)
    shapes: list[list[Dim]] = [list(leaves[index][1].shape) for index in kept]
    for name, size in sizes.items():
        larger = _run_beside(original, lifted, contract, {**sizes, name: size + 3})
        for output, index in enumerate(kept):
            before, after = leaves[index][1].shape, larger[index][1].shape
            for axis, (old, new) in enumerate(zip(before, after, strict=True)):
                if old != new:
                    follows = (old, new) == (size, size + 3)
                    shapes[output][axis] = name if follows else f"{name}_{axis}"
    names = _output_names([leaves[index][0] for index in kept])
    outputs = tuple(
        TensorSpec(
            name=name,
            dtype=cast(DType, str(leaves[index][1].dtype).removeprefix("torch.")),
            shape=tuple(shape),
        )
        for name, index, shape in zip(names, kept, shapes, strict=True)
    )
    return kept, replace(contract, outputs=outputs)


def _run_beside(
    original: nn.Module, lifted: Lifted, contract: Signature, sizes: Mapping[str, int]
) -> list[tuple[Path, Tensor]]:
    """What the lifted module returns from the initial state, once it is seen to be what the original does."""
    tensors = example(contract, sizes)
    inputs = tensors[: lifted.inputs]
    shapes = ", ".join(f"{spec.name} {list(x.shape)}" for spec, x in zip(contract.inputs, inputs, strict=True))
    try:
        wanted = flatten(original(*inputs))
        got = flatten(lifted.call(*tensors))
        lifted.final_states()
    except LiftingError:
        raise
    except Exception as error:  # whatever the user's forward raises
        reason = " ".join(str(error).split()) or type(error).__name__
        raise LiftingError(
            f"The module does not run on inputs of shape {shapes} ({reason}); correct the input specification."
        ) from error
    same = [path for path, _ in wanted] == [path for path, _ in got] and all(
        a.shape == b.shape and torch.allclose(a, b, rtol=1e-5, atol=1e-6, equal_nan=True)
        for (_, a), (_, b) in zip(wanted, got, strict=True)
    )
    if not same:
        raise LiftingError(
            f"Started from zeros, the module computes something else on inputs of shape {shapes}; "
            "it must not make its first state from anything else."
        )
    return got


def _output_names(paths: Sequence[Path]) -> list[str]:
    """Keys of mappings name outputs; positions become `y`, or `y0`, `y1`, … where there are several."""
    if len(paths) == 1 and all(isinstance(key, int) for key in paths[0]):
        return ["y"]
    return [("y" if isinstance(path[0], int) else "") + "_".join(map(str, path)) for path in paths]


def _measure_streaming(lifted: Lifted, contract: Signature) -> tuple[Streaming, str]:
    """Whether chunks with carried state give what the whole sequence gives, seen by running both."""
    for spec in contract.recurrent:
        if spec.num_directions == 2:
            return (
                "none",
                f"{spec.module or 'the LSTM'} is bidirectional: its first output needs the last input",
            )
    if not any("seq" in spec.shape for spec in contract.inputs):
        return "none", "no input has a dynamic time axis `seq`"
    whole_length, chunks = 7, (3, 1, 3)
    whole = example(contract, {**example_sizes(contract), "seq": whole_length})
    inputs, state = whole[: lifted.inputs], whole[lifted.inputs :]
    parts: list[tuple[Tensor, ...]] = []
    start = 0
    for length in chunks:
        part = [
            x.narrow(spec.shape.index("seq"), start, length) if "seq" in spec.shape else x
            for spec, x in zip(contract.inputs, inputs, strict=True)
        ]
        try:
            parts.append(lifted(*part, *state))
        except RuntimeError as error:
            return "none", f"it does not run on {length} steps ({' '.join(str(error).split())})"
        state = parts[-1][len(contract.outputs) :]
        start += length
    wanted = lifted(*whole)
    outputs = [
        torch.cat([part[index] for part in parts], spec.shape.index("seq")) if "seq" in spec.shape else parts[-1][index]
        for index, spec in enumerate(contract.outputs)
    ]
    if not _close(state, wanted[len(contract.outputs) :]):
        return "none", "the state after chunks differs from that after the whole: something looks across time"
    if not _close(outputs, wanted[: len(contract.outputs)]):
        return "state-only", "the output looks across time, so it depends on how the sequence is cut"
    return "exact", ""


def _close(got: Sequence[Tensor], wanted: Sequence[Tensor]) -> bool:
    return all(
        a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))
        for a, b in zip(got, wanted, strict=True)
    )
