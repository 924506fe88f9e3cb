"""Lifting: any module with `nn.LSTM` or `nn.LSTMCell` inside becomes one whose hidden state is explicit.

    Lifted.forward(x, …, h_in, c_in) -> (y, …, h_out, c_out)

The user's code stays as it is. Recurrent modules in a copy get another class (see `stateful`); which of their calls
start from a state of their own is seen by running the module, and so is all else that the contract says.
"""

import inspect
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from typing import Any, NamedTuple, TypeVar, cast, get_args

import numpy as np
import torch
from msgspec.structs import replace
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lstm_deploy.errors import LiftingError, one_line
from lstm_deploy.packing import kept_padded
from lstm_deploy.sampling import sample_inputs, sizes_of
from lstm_deploy.signature import (
    Dim,
    DType,
    FixedDim,
    RecurrentSpec,
    Signature,
    StateLayout,
    StatePolicy,
    Streaming,
    TensorSpec,
)
from lstm_deploy.stateful import Call, Port, State, make_stateful, same
from lstm_deploy.tasks import Task

_STATE = re.compile(r"^(h|c|hx|cx|hc)$|^[hc]_?(0|t|in|prev)|hidden|state|cell|memory|prev|carry")
"""How people name an argument that is a state."""
Path = tuple[str | int, ...]
Module = TypeVar("Module", bound=nn.Module)
Recorded = dict[str, list[Call]]
"""By the path of a recurrent module, what each of its calls was given."""
BATCH, SEQ, MORE = 2, 6, 3
"""Sizes that the module is tried at, and by how much each is varied: none is 1, which tracers take for a constant."""


class Arguments(NamedTuple):
    """How inputs and states become arguments of the user's `forward`."""

    names: tuple[str, ...] | None
    """Parameters that the inputs are passed as; none to pass them by position."""
    states: tuple[str, ...]
    """Parameters that demand a state: one for the pair `(h, c)`, or one for each."""

    def call(self, module: nn.Module, inputs: Sequence[Tensor], state: State | None) -> Any:
        """What `module` returns."""
        demanded: dict[str, Any] = {}
        if state is not None and len(self.states) == 1:
            demanded = {self.states[0]: state}
        elif state is not None and len(self.states) == 2:
            demanded = dict(zip(self.states, state, strict=True))
        if self.names is None:
            return module(*inputs, **demanded)
        return module(**dict(zip(self.names, inputs, strict=True)), **demanded)


class Lifted(nn.Module):
    """A module with explicit state; `signature` names its inputs and outputs, in order."""

    signature: Signature

    def __init__(
        self,
        module: nn.Module,
        starts: Sequence[tuple[str, int]],
        arguments: Arguments,
        inputs: int,
        state_layout: StateLayout,
        *,
        packs: bool,
        names_device: bool,
    ) -> None:
        """Take over `module`, which must not be used otherwise from here on.

        `starts` are the calls (path and number) that begin a chain of states; `packs` says that the module packs
        padded sequences, and `names_device` that it names a device which is not there.
        """
        super().__init__()
        self.module = module
        self.arguments, self.inputs = arguments, inputs
        self.batch_first_state = state_layout == "batch-first"
        self.packs, self.names_device = packs, names_device
        self.kept: tuple[int, ...] = ()
        """Which of the tensors that `module` returns are outputs; the others are the state."""
        self.notes: tuple[str, ...] = ()
        """What its user must know beside the contract."""
        self.calls = make_stateful(module)
        self.ports: list[Port] = []
        for path, number in starts:
            self.ports.append(self.calls[path].ports.setdefault(number, Port()))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """All inputs, then `h` and `c` of each port; returns all outputs, then the new `h` and `c`."""
        returned = flatten(self.call(*tensors))
        outputs = [returned[index][1] for index in self.kept]
        return (*outputs, *(self._swap_layout(state) for state in self.final_states()))

    def call(self, *tensors: Tensor) -> Any:
        """What `module` itself returns on the inputs when it starts from the given states."""
        states = [self._swap_layout(state) for state in tensors[self.inputs :]]
        for calls in self.calls.values():
            calls.restart()
        for port, h, c in zip(self.ports, states[::2], states[1::2], strict=True):
            port.given = (h, c)
        with ExitStack() as stack:
            if self.packs:
                stack.enter_context(kept_padded(self.module))
            if self.names_device:
                stack.enter_context(StayOnCPU())
            return self.arguments.call(self.module, tensors[: self.inputs], self.ports[0].given)

    def final_states(self) -> list[Tensor]:
        """`h` and `c` of each port after the latest call, layers first."""
        return [state for port in self.ports if port.final is not None for state in port.final]

    def _swap_layout(self, state: Tensor) -> Tensor:
        return state.transpose(0, 1) if self.batch_first_state else state


class StayOnCPU(TorchFunctionMode):
    """Within the block, devices that the user's code names are the CPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("device") is not None:
            kwargs["device"] = "cpu"
        if func is Tensor.cuda:
            return args[0]
        if func is Tensor.to:
            args = tuple("cpu" if isinstance(arg, str | torch.device) else arg for arg in args)
        return func(*args, **kwargs)


def lift(
    module: nn.Module,
    inputs: Sequence[TensorSpec],
    *,
    task: Task | None = None,
    state_policy: StatePolicy = "reset",
    state_layout: StateLayout = "layers-first",
) -> Lifted:
    """Make the state of every `nn.LSTM` and `nn.LSTMCell` in a copy of `module` explicit, and measure its contract.

    `inputs` are the arguments of `forward` but for a state that it demands. Raises `LiftingError` where the module
    has no LSTM, does not run on such inputs, or cannot be lifted rightly, with the reason.
    """
    try:
        original = deepcopy(module).cpu().float().eval().requires_grad_(False)
    except Exception as error:  # tensors that hang on a graph, modules that forbid it
        raise LiftingError(
            f"The module cannot be copied ({one_line(error)}); make plain parameters of its weights."
        ) from error
    _check_recurrent(original)
    probe = _Probe(original, inputs, _arguments(original, inputs))
    with torch.no_grad(), _quiet():
        fixed, specs = probe.settle_sizes()
        starts = probe.starts()
        lifted = Lifted(
            shared_copy(original),
            [(start.path, start.number) for start in starts],
            probe.arguments,
            len(specs),
            state_layout,
            packs=probe.packs,
            names_device=probe.names_device,
        ).eval()
        contract = Signature(
            inputs=specs,
            outputs=(),
            recurrent=_recurrent_specs(original, starts),
            state_layout=state_layout,
            state_policy=state_policy,
            fixed=fixed,
            task=task,
        )
        # Measured on copies, so that what the user's forward keeps on the module stays out of the export.
        lifted.kept, outputs = _measure_outputs(probe, lifted, contract)
        contract = replace(contract, outputs=outputs)
        streaming, reason = _measure_streaming(shared_copy(lifted), contract, inputs)
        if lifted.packs and not _ignores_padding(probe, lifted, contract):
            lifted.notes = ("the outputs look at padded steps, so the longest row of a batch must fill the time axis",)
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


def shared_copy(module: Module) -> Module:
    """A copy whose weights are the very tensors of `module`: what differs is the code that uses them."""
    memo = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return deepcopy(module, memo)


def example(signature: Signature, batch: int = BATCH, seq: int = SEQ, seed: int = 0) -> tuple[Tensor, ...]:
    """Arguments for `Lifted.forward`: random inputs of these sizes and the initial state."""
    sizes = signature.clamp(sizes_of(signature.inputs, batch, seq))
    inputs = sample_inputs(signature.inputs, sizes, np.random.default_rng(seed))
    state = signature.initial_state(sizes["batch"])
    return tuple(torch.from_numpy(value) for value in (*inputs.values(), *state.values()))


class _Start(NamedTuple):
    """A call that begins a chain of states."""

    path: str
    number: int
    initial: State | None
    """What it starts from `[layers, size]`; none for zeros."""


class _Probe:
    """The module as its author wrote it, run to see what it does and what its LSTMs are given."""

    def __init__(self, original: nn.Module, inputs: Sequence[TensorSpec], arguments: Arguments) -> None:
        self.original, self.inputs, self.arguments = original, tuple(inputs), arguments
        self.packs = self.names_device = False
        self.sizes = sizes_of(inputs, BATCH, SEQ)

    def settle_sizes(self) -> tuple[tuple[FixedDim, ...], tuple[TensorSpec, ...]]:
        """Find which dimensions the module fixes; afterwards `inputs` say so."""
        names = {dim for spec in self.inputs for dim in spec.shape if isinstance(dim, str)}
        fixed: list[FixedDim] = []
        try:
            recorded = self.record(self.sizes)
        except LiftingError as error:
            size = self._size_it_takes() if "seq" in names else None
            if size is None:
                raise
            why = one_line(error.__cause__ or error)
            fixed.append(FixedDim(name="seq", size=size, reason=f"the module runs on {size} steps only ({why})"))
            self.sizes["seq"] = size
            recorded = self.record(self.sizes)
        self.packs = any(call.packed for calls in recorded.values() for call in calls)
        batches = _batches(recorded)
        for name in sorted(names - {dim.name for dim in fixed}):
            again = self.record({**self.sizes, name: self.sizes[name] + MORE})
            if name != "batch" and _batches(again) != batches:
                raise LiftingError(
                    f"The LSTM takes {name!r} for the axis of rows; call that axis `batch` and the one of time `seq`."
                )
            if name == "seq" and _counts(again) != _counts(recorded):
                reason = "a loop in forward takes one step at a time; feed it one step a call"
                fixed.append(FixedDim(name="seq", size=1, reason=reason))
        if "batch" not in names:
            fixed.append(FixedDim(name="batch", size=max(batches, default=1), reason="the input has no batch axis"))
        self.sizes |= {dim.name: dim.size for dim in fixed}
        self.inputs = tuple(_with_fixed(spec, fixed) for spec in self.inputs)
        return tuple(fixed), self.inputs

    def starts(self) -> list[_Start]:
        """The calls that start from nothing, a constant, a random state, or the state that `forward` demands.

        The others start from what was computed from the inputs, as in a loop over time or after an encoder; that is
        seen by running on other inputs.
        """
        first = self.record(self.sizes, seed=0)
        others = [self.record(self.sizes, seed=seed) for seed in (1, 2, 3, None)]
        reseeded = self.record(self.sizes, seed=0, noise=1)
        demanded = self._demanded(self.sizes, seed=0)
        if any(_counts(other) != _counts(first) for other in (*others, reseeded)):
            raise LiftingError("How often an LSTM is called depends on the values of the inputs; it must not.")
        found = []
        for path, calls in first.items():
            for number, call in enumerate(calls):
                if same(call.state, demanded) and demanded is not None:
                    found.append(_Start(path, number, None))
                elif all(same(call.state, other[path][number].state) for other in others):
                    random = not same(call.state, reseeded[path][number].state)
                    found.append(_Start(path, number, None if random else _learned(call.state, path)))
        if not found:
            raise LiftingError(
                "Every LSTM of this module starts from a state that is computed from the inputs; "
                "leave the state out of the inputs, so that it can be made explicit."
            )
        return found

    def record(self, sizes: Mapping[str, int], seed: int | None = 0, noise: int = 0) -> Recorded:
        """What every call of every recurrent module is given; raises `LiftingError` if forward does not run.

        Each run is of a fresh copy: some modules keep their state, or more, as an attribute.
        """
        recorder = shared_copy(self.original)
        by_path = make_stateful(recorder)
        for calls in by_path.values():
            calls.recorded = []
        self.run(recorder, self.tensors(sizes, seed), self._demanded(sizes, seed or 0), noise)
        return {path: calls.recorded or [] for path, calls in by_path.items()}

    def run(self, module: nn.Module, inputs: Sequence[Tensor], state: State | None, noise: int = 0) -> Any:
        """What `module` returns; `noise` seeds what it draws by itself."""
        with torch.random.fork_rng(devices=[]), ExitStack() as stack:
            torch.manual_seed(noise)
            if self.names_device:
                stack.enter_context(StayOnCPU())
            try:
                return self.arguments.call(module, inputs, state)
            except LiftingError:
                raise
            except Exception as error:  # whatever the user's forward raises
                if not self.names_device and ("CUDA" in str(error) or "device" in str(error)):
                    self.names_device = True
                    return self.run(module, inputs, state, noise)
                shapes = ", ".join(f"{spec.name} {list(x.shape)}" for spec, x in zip(self.inputs, inputs, strict=True))
                reason = one_line(error)
                raise LiftingError(
                    f"The module does not run on inputs of shape {shapes} ({reason}{user_line(error)}); "
                    "correct the input specification."
                ) from error

    def tensors(self, sizes: Mapping[str, int], seed: int | None) -> list[Tensor]:
        """Inputs of these sizes: random, or with no seed all zeros but for lengths."""
        sampled = sample_inputs(self.inputs, sizes, np.random.default_rng(seed or 0))
        tensors = {name: torch.from_numpy(value) for name, value in sampled.items()}
        if seed is None:
            tensors |= {s.name: torch.zeros_like(tensors[s.name]) for s in self.inputs if not s.is_lengths}
        return list(tensors.values())

    def _demanded(self, sizes: Mapping[str, int], seed: int) -> State | None:
        """A state for a `forward` that demands one."""
        if not self.arguments.states:
            return None
        (module,) = [child for child in self.original.modules() if isinstance(child, nn.LSTM | nn.LSTMCell)]
        generator = torch.Generator().manual_seed(seed)
        h, c = _state_sizes(module)
        depth = _depth(module)
        return tuple(torch.randn(depth, sizes["batch"], size, generator=generator) for size in (h, c))  # type: ignore[return-value]

    def _size_it_takes(self) -> int | None:
        """A number of steps that the module runs on, among the sizes of its own weights."""
        values = (*self.original.parameters(), *self.original.buffers())
        for size in sorted({size for value in values for size in value.shape if size < 10_000}):
            try:
                self.record({**self.sizes, "seq": size})
            except LiftingError:
                continue
            return size
        return None


def _measure_outputs(
    probe: _Probe, template: Lifted, contract: Signature
) -> tuple[tuple[int, ...], tuple[TensorSpec, ...]]:
    """Which of the returned tensors are outputs, and their names and shapes.

    Each dynamic dimension of the inputs is varied in turn: what varies with it in an output bears its name. Each
    run is compared with the untouched module.
    """
    sizes = probe.sizes
    lifted = shared_copy(template)
    leaves = _run_beside(probe, lifted, contract, sizes)
    returned = (state for port in lifted.ports for state in port.returned or ())
    finals = {(state.data_ptr(), state.shape) for state in returned}
    kept = tuple(index for index, (_, tensor) in enumerate(leaves) if (tensor.data_ptr(), tensor.shape) not in finals)
    if not kept:  # nothing but the state is returned: then it is the output too
        kept = tuple(range(len(leaves)))
    shapes: list[list[Dim]] = [list(leaves[index][1].shape) for index in kept]
    dynamic = {dim for spec in (*contract.inputs, *contract.state_inputs) for dim in spec.shape if isinstance(dim, str)}
    for name in sorted(dynamic):
        size = sizes[name]
        larger = _run_beside(probe, shared_copy(template), contract, {**sizes, name: size + MORE})
        for output, index in enumerate(kept):
            for axis, (old, new) in enumerate(zip(leaves[index][1].shape, larger[index][1].shape, strict=True)):
                if old != new:
                    shapes[output][axis] = name if (old, new) == (size, size + MORE) else f"{name}_{axis}"
    names = _output_names([leaves[index][0] for index in kept])
    _check_names([*contract.input_names, *names, *(spec.name for spec in contract.state_outputs)])
    for name, index in zip(names, kept, strict=True):
        if str(leaves[index][1].dtype).removeprefix("torch.") not in get_args(DType):
            raise LiftingError(f"The output {name} is {leaves[index][1].dtype}, which is not supported; return floats.")
    return kept, tuple(
        TensorSpec(
            name=name,
            dtype=cast(DType, str(leaves[index][1].dtype).removeprefix("torch.")),
            shape=tuple(shape),
        )
        for name, index, shape in zip(names, kept, shapes, strict=True)
    )


def _run_beside(
    probe: _Probe, lifted: Lifted, contract: Signature, sizes: Mapping[str, int]
) -> list[tuple[Path, Tensor]]:
    """What the lifted module returns, once it is seen to be what the untouched one returns from the same state."""
    inputs, demanded = probe.tensors(sizes, 0), probe._demanded(sizes, 0)
    recorded = probe.record(sizes)
    states: list[Tensor] = []
    for spec, (path, number) in zip(contract.recurrent, _starts_of(lifted), strict=True):
        h, c = recorded[path][number].state or _zeros(spec, sizes["batch"])
        states += [h.transpose(0, 1), c.transpose(0, 1)] if lifted.batch_first_state else [h, c]
    wanted = flatten(probe.run(shared_copy(probe.original), inputs, demanded))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # as `probe.run` does
        got = flatten(lifted.call(*inputs, *states))
    if len(lifted.final_states()) != 2 * len(lifted.ports):
        raise LiftingError("An LSTM of this module is called only sometimes, so it has no single state.")
    same_outputs = [path for path, _ in wanted] == [path for path, _ in got] and all(
        a.shape == b.shape and torch.allclose(a, b, rtol=1e-5, atol=1e-6, equal_nan=True)
        for (_, a), (_, b) in zip(wanted, got, strict=True)
    )
    if not same_outputs:
        raise LiftingError(
            f"With its state made explicit the module computes something else at {dict(sizes)}; "
            "forward must be a function of its inputs and the state alone."
        )
    return got


def _ignores_padding(probe: _Probe, lifted: Lifted, contract: Signature) -> bool:
    """Whether outputs without a time axis stay the same when no row fills it, as with `pad_packed_sequence`."""
    inputs = [
        x.clamp(max=probe.sizes["seq"] - 2) if spec.is_lengths else x
        for spec, x in zip(probe.inputs, probe.tensors(probe.sizes, 0), strict=True)
    ]
    zeros = [torch.from_numpy(state) for state in contract.initial_state(probe.sizes["batch"]).values()]
    wanted = flatten(probe.run(shared_copy(probe.original), inputs, probe._demanded(probe.sizes, 0)))
    got = flatten(shared_copy(lifted).call(*inputs, *zeros))
    return all(
        a.shape != b.shape or torch.allclose(a, b, rtol=1e-4, atol=1e-5)
        for index in lifted.kept
        for a, b in [(wanted[index][1], got[index][1])]
    )


def _check_names(names: Sequence[str]) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise LiftingError(
            f"Two inputs or outputs would be called {twice[0]!r}; rename the module's own argument, key or submodule."
        )


def _measure_streaming(lifted: Lifted, contract: Signature, given: Sequence[TensorSpec]) -> tuple[Streaming, str]:
    """Whether chunks with carried state give what the whole sequence gives, seen by running both."""
    for spec in contract.recurrent:
        if spec.num_directions == 2:
            return "none", f"{spec.module or 'the LSTM'} is bidirectional: its first output needs the last input"
    one_step = any(dim.name == "seq" and dim.size == 1 for dim in contract.fixed)
    specs = given if one_step else contract.inputs  # a loop over time runs at any length here
    if not any("seq" in spec.shape for spec in specs):
        fixed = next((f": {dim.reason}" for dim in contract.fixed if dim.name == "seq"), "")
        return "none", f"the number of steps is fixed{fixed}"
    chunks = (1,) * 7 if one_step else (3, 1, 3)
    sizes = contract.clamp(sizes_of(specs, BATCH, sum(chunks))) | {"seq": sum(chunks)}
    sampled = sample_inputs(specs, sizes, np.random.default_rng(0))
    inputs = [torch.from_numpy(sampled[spec.name]) for spec in specs]
    lengths = [torch.full((sizes["batch"],), length) for length in (*chunks, sum(chunks))]
    first = [torch.from_numpy(state) for state in contract.initial_state(sizes["batch"]).values()]
    state = first
    parts: list[tuple[Tensor, ...]] = []
    for number, length in enumerate(chunks):
        start = sum(chunks[:number])
        part = [
            lengths[number]
            if spec.is_lengths
            else x.narrow(spec.shape.index("seq"), start, length)
            if "seq" in spec.shape
            else x
            for spec, x in zip(specs, inputs, strict=True)
        ]
        try:
            parts.append(lifted(*part, *state))
        except RuntimeError as error:
            return "none", f"it does not run on {length} steps ({one_line(error)})"
        state = list(parts[-1][len(contract.outputs) :])
    whole = [lengths[-1] if spec.is_lengths else x for spec, x in zip(specs, inputs, strict=True)]
    wanted = lifted(*whole, *first)
    if not _close(state, wanted[len(contract.outputs) :]):
        return "none", "the state after chunks differs from that after the whole: something looks across time"
    outputs = [_joined([part[index] for part in parts], wanted[index]) for index in range(len(contract.outputs))]
    if not _close(outputs, wanted[: len(contract.outputs)]):
        return "state-only", "the output looks across time, so it depends on how the sequence is cut"
    return "exact", ""


def _joined(parts: Sequence[Tensor], whole: Tensor) -> Tensor:
    """Outputs of chunks along the axis of time, or the last one where the whole has no such axis."""
    for axis in range(whole.dim()):
        others = [size for index, size in enumerate(parts[0].shape) if index != axis]
        if sum(part.shape[axis] for part in parts) == whole.shape[axis] and others == [
            size for index, size in enumerate(whole.shape) if index != axis
        ]:
            return torch.cat(list(parts), axis)
    return parts[-1]


def _close(got: Sequence[Tensor], wanted: Sequence[Tensor]) -> bool:
    return all(
        a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))
        for a, b in zip(got, wanted, strict=True)
    )


def _check_recurrent(module: nn.Module) -> None:
    """Refuse what is recurrent but no LSTM, and LSTMs whose computation is their own."""
    found = False
    for path, child in module.named_modules():
        name = f"{path or 'The module'} is an nn.{type(child).__name__}"
        if isinstance(child, nn.RNNBase | nn.RNNCellBase) and not isinstance(child, nn.LSTM | nn.LSTMCell):
            raise LiftingError(f"{name}, which has no cell state and is not supported; use an nn.LSTM.")
        if isinstance(child, nn.LSTM | nn.LSTMCell):
            found = True
            base = nn.LSTM if isinstance(child, nn.LSTM) else nn.LSTMCell
            if type(child).forward is not base.forward:
                base_name = f"nn.{base.__name__}"
                raise LiftingError(
                    f"{name}, a subclass of {base_name} with a forward of its own; use {base_name} itself."
                )
    if not found:
        raise LiftingError(
            f"{type(module).__name__} has no nn.LSTM or nn.LSTMCell inside, so there is no state to make explicit."
        )


def _arguments(module: nn.Module, inputs: Sequence[TensorSpec]) -> Arguments:
    """Which parameters of `forward` the inputs are, and which demand a state."""
    parameters = inspect.signature(module.forward).parameters.values()
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return Arguments(None, ())
    names = [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]
    given = [spec.name for spec in inputs]
    if len(given) > len(names):
        raise LiftingError(f"forward takes {len(names)} argument(s), {', '.join(names)}; give as many inputs.")
    passed = given if set(given) <= set(names) else names[: len(given)]
    missing = [
        p.name for p in parameters if p.name not in passed and p.default is p.empty and p.kind is not p.VAR_KEYWORD
    ]
    recurrent = [child for child in module.modules() if isinstance(child, nn.LSTM | nn.LSTMCell)]
    no_state = [name for name in missing if not _STATE.search(name.lower())]
    if no_state or len(missing) > 2 or (missing and len(recurrent) != 1):
        raise LiftingError(
            f"forward also needs {', '.join(no_state or missing)}; describe each of its inputs, "
            f"as in {(no_state or missing)[0]}:float32[batch,seq,40]."
        )
    return Arguments(tuple(passed), tuple(missing))


def _recurrent_specs(module: nn.Module, starts: Sequence[_Start]) -> tuple[RecurrentSpec, ...]:
    paths = [start.path for start in starts]
    specs = []
    for start in starts:
        prefix = "" if len(starts) == 1 else start.path.replace(".", "_") + "_"
        if paths.count(start.path) > 1:
            prefix += f"{sum(other.path == start.path and other.number <= start.number for other in starts)}_"
        child = module.get_submodule(start.path)
        initial_h, initial_c = (
            (tuple(map(tuple, state.tolist())) for state in start.initial) if start.initial else (None, None)
        )
        specs.append(
            RecurrentSpec(
                module=start.path,
                prefix=prefix,
                input_size=cast(int, child.input_size),
                hidden_size=cast(int, child.hidden_size),
                proj_size=cast(int, getattr(child, "proj_size", 0)),
                num_layers=cast(int, getattr(child, "num_layers", 1)),
                num_directions=2 if getattr(child, "bidirectional", False) else 1,
                initial_h=initial_h,
                initial_c=initial_c,
            )
        )
    return tuple(specs)


def _learned(state: State | None, path: str) -> State | None:
    """The constant that every row starts from `[layers, size]`; none if it is zeros."""
    if state is None or all((value == 0).all() for value in state):
        return None
    if any((value != value[:, :1]).any() for value in state):
        raise LiftingError(
            f"{path or 'The LSTM'} starts each row of a batch from another constant, which no contract can tell; "
            "start all rows alike."
        )
    return state[0][:, 0], state[1][:, 0]


def _starts_of(lifted: Lifted) -> list[tuple[str, int]]:
    places = {id(port): (path, number) for path, calls in lifted.calls.items() for number, port in calls.ports.items()}
    return [places[id(port)] for port in lifted.ports]


def _zeros(spec: RecurrentSpec, batch: int) -> State:
    depth = spec.num_layers * spec.num_directions
    return torch.zeros(depth, batch, spec.output_size), torch.zeros(depth, batch, spec.hidden_size)


def _state_sizes(module: nn.Module) -> tuple[int, int]:
    hidden = cast(int, module.hidden_size)
    return cast(int, getattr(module, "proj_size", 0)) or hidden, hidden


def _depth(module: nn.Module) -> int:
    return cast(int, getattr(module, "num_layers", 1)) * (2 if getattr(module, "bidirectional", False) else 1)


def _batches(recorded: Recorded) -> set[int]:
    return {call.batch for calls in recorded.values() for call in calls}


def _counts(recorded: Recorded) -> dict[str, int]:
    return {path: len(calls) for path, calls in recorded.items()}


def _with_fixed(spec: TensorSpec, fixed: Sequence[FixedDim]) -> TensorSpec:
    sizes: dict[Dim, int] = {dim.name: dim.size for dim in fixed}
    return replace(spec, shape=tuple(sizes.get(dim, dim) for dim in spec.shape))


def _output_names(paths: Sequence[Path]) -> list[str]:
    """Keys of mappings name outputs; positions become `y`, or `y0`, `y1`, … where there are several."""
    if len(paths) == 1 and all(isinstance(key, int) for key in paths[0]):
        return ["y"]
    return [("y" if isinstance(path[0], int) else "") + "_".join(map(str, path)) for path in paths]


def user_line(error: BaseException) -> str:
    """`, at FILE:LINE` of the user's code where an error came from, if it came from any."""
    place = ""
    traceback = error.__traceback__
    while traceback is not None:
        module = traceback.tb_frame.f_globals.get("__name__", "")
        if module.partition(".")[0] not in ("torch", "lstm_deploy", "onnxscript", "contextlib"):
            place = f", at {traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return place


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what PyTorch says once in a process of every projection on the CPU; nobody could act on it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="LSTM with projections is not supported with oneDNN")
        yield
