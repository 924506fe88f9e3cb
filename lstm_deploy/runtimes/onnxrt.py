"""ONNX Runtime: sessions on its execution providers, and buffers bound once for streaming."""

import io
import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, parser

from lstm_deploy.artifacts import environment, needs_vnni, onnx_graph, without_contract
from lstm_deploy.contract import CELLS, CONTRACT_KEY, Feeds, Outputs, Signature, TensorSpec, blank_feeds
from lstm_deploy.errors import CaptureError, InputError, ProviderError, one_line
from lstm_deploy.runtimes.protocol import Runtime
from lstm_deploy.runtimes.providers import PROVIDERS, Provider

SHAPE_OPERATORS = (
    *("Shape", "Size", "Gather", "Slice", "Concat"),
    *("Squeeze", "Unsqueeze", "Cast", "Range", "ConstantOfShape"),
)
"""Left to the CPU by a provider, as they compute sizes. On values they would need copies between devices: Memcpy."""
MOST_WEIGHTS = 50_000
"""Tensors of weights in a file: onnxruntime opens it in a time that is quadratic in these, 20 s for so many."""
FATAL_ONLY = 4
"""A log severity: problems that a user can act on arrive as exceptions."""


class OnnxRuntime(Runtime):
    """An ONNX file in an onnxruntime session; it keeps no state of its own, so threads may share it."""

    swallows_nan = True  # its vectorised sigmoid and tanh clamp their argument, and NaN with it

    def __init__(
        self, path: Path | bytes, provider: str = "cpu", threads: int | None = None, settings: Sequence[str] = ()
    ) -> None:
        self.provider = provider
        if isinstance(path, Path):
            _refuse(path, PROVIDERS[provider])
        self.session: Any = open_session(path, provider, threads, settings)
        self._graphs = count(1) if "graph" in settings else None
        self._unbound = _graph_options(-1) if "graph" in settings else None
        try:
            text = self.session.get_modelmeta().custom_metadata_map.get(CONTRACT_KEY)
        except UnicodeDecodeError as error:
            raise InputError(f"The metadata of {_name(path)} is not text; export the model again.") from error
        if text is None:
            raise without_contract(Path(_name(path)))
        self.signature: Signature = Signature.from_json(text)

    def run(self, feeds: Feeds) -> Outputs:
        names = self.signature.output_names
        try:
            return dict(zip(names, self.session.run(names, dict(feeds), self._unbound), strict=True))
        except Exception as error:  # onnxruntime raises a dozen unrelated types
            raise InputError(f"onnxruntime cannot run this input ({one_line(error)}).") from error

    def declared(self) -> list[TensorSpec]:
        specs = []
        for value in (*self.session.get_inputs(), *self.session.get_outputs()):
            shape = tuple(dim if isinstance(dim, int) else str(dim) for dim in value.shape or ())
            specs.append(TensorSpec(name=value.name, dtype=_dtype(value.type), shape=shape))
        return specs

    def misplaced(self) -> list[str]:
        """Nodes that run elsewhere than on the provider, but for arithmetic on shapes."""
        counts = Counter(
            (node.op_type, part.ep_name)
            for part in self.session.get_provider_graph_assignment_info()
            for node in part.get_nodes()
            if part.ep_name != PROVIDERS[self.provider].onnxruntime[0] and node.op_type not in SHAPE_OPERATORS
        )
        return [f"{number} {kind} node(s) run on {name}." for (kind, name), number in counts.items()]

    def active(self) -> list[str]:
        return list(self.session.get_providers())

    def recur(self, batch: int, seq: int) -> "BoundRecurrence":
        device = PROVIDERS[self.provider].device
        if device == "cpu":
            return BoundRecurrence(self, batch, seq)
        recurrence = DeviceRecurrence(self, batch, seq, device=device, graphs=self._graphs)
        if self._graphs is not None:
            recurrence.capture()
        return recurrence

    def close(self) -> None:
        del self.session


class BoundRecurrence:
    """Two bindings made once and used in turn: the state goes from buffers a to b, then from b to a.

    On the CPU nothing is copied or allocated by a step.
    """

    inputs: Outputs

    def __init__(
        self, runtime: OnnxRuntime, batch: int, seq: int, *, device: str = "cpu", graphs: "count[int] | None" = None
    ) -> None:
        """`graphs` numbers the graphs that are to be captured: one for each binding, since addresses are fixed.

        A capture runs the model more than once; that changes nothing, since no binding writes what it reads.
        """
        session, signature = runtime.session, runtime.signature
        self._session, self._device = session, device
        self.inputs, initial = blank_feeds(signature, batch, seq)
        # A dimension that the contract cannot name has a size only after a run.
        first = runtime.run({**self.inputs, **initial})
        self.outputs: Outputs = {spec.name: np.zeros_like(first[spec.name]) for spec in signature.outputs}
        self._inputs = {name: self._on_device(value) for name, value in self.inputs.items()}
        self._outputs = {name: self._on_device(value) for name, value in self.outputs.items()}
        # The arrays behind the state's buffers stay referenced: on the CPU the buffers are their memory.
        self._arrays = [{name: value.copy() for name, value in initial.items()} for _ in range(2)]
        self._states = [{name: self._on_device(value) for name, value in arrays.items()} for arrays in self._arrays]
        pairs = [(i.name, o.name) for i, o in zip(signature.state_inputs, signature.state_outputs, strict=True)]
        bindings = [self._bind(pairs, *states) for states in (self._states, self._states[::-1])]
        options = [None if graphs is None else _graph_options(next(graphs)) for _ in bindings]
        self._runs = list(map(partial(_caller, session), bindings, options))
        self._waits = [binding.synchronize_outputs for binding in bindings]
        self._now = 0
        """Which binding runs next; the state is in its buffers."""

    def step(self) -> None:
        self._runs[self._now]()
        self._now ^= 1

    advance = step  # which copies nothing

    def get_state(self) -> Outputs:
        return {name: value.numpy().copy() for name, value in self._states[self._now].items()}

    def set_state(self, state: Feeds) -> None:
        for name, value in self._states[self._now].items():
            value.update_inplace(np.ascontiguousarray(state[name]))

    def _bind(self, pairs: list[tuple[str, str]], before: dict[str, Any], after: dict[str, Any]) -> Any:
        binding = self._session.io_binding()
        for name, value in {**self._inputs, **before}.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in {**self._outputs, **{state_out: after[state_in] for state_in, state_out in pairs}}.items():
            binding.bind_ortvalue_output(name, value)
        return binding

    def _on_device(self, value: Any) -> Any:
        """An OrtValue: the array's own memory on the CPU, a copy on a device."""
        return ort.OrtValue.ortvalue_from_numpy(value, self._device)


class DeviceRecurrence(BoundRecurrence):
    """Buffers on a device, where the state stays; the inputs are copied there and the outputs back."""

    def step(self) -> None:
        for name, value in self._inputs.items():
            value.update_inplace(self.inputs[name])
        super().step()
        for name, value in self._outputs.items():
            self.outputs[name][...] = value.numpy()

    def advance(self) -> None:
        self._runs[self._now]()
        self._waits[self._now]()
        self._now ^= 1

    def capture(self) -> None:
        """Record the graph of each binding; the state is then the initial one, as before.

        Raises `CaptureError` for a model that cannot be recorded.
        """
        before = self.get_state()
        try:
            self.advance()
            self.advance()
        except Exception as error:  # onnxruntime raises a dozen unrelated types
            raise CaptureError(f"It cannot be recorded as a CUDA graph ({one_line(error, 100)}).") from error
        self.set_state(before)


def _graph_options(graph: int) -> Any:
    """Options of a run that captures, and from then on replays, the graph of this number; -1 does neither."""
    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(graph))
    return options


def _caller(session: Any, binding: Any, options: Any = None) -> Callable[[], None]:
    """`session.run_with_iobinding(binding, options)`, past its Python wrapper where the wrapped object is known.

    The wrapper adds 5 % to a step of a small LSTM.
    """
    try:
        return partial(session._sess.run_with_iobinding, binding._iobinding, options)
    except AttributeError:
        return partial(session.run_with_iobinding, binding, options)


def open_session(
    model: Path | bytes,
    provider: str = "cpu",
    threads: int | None = None,
    settings: Sequence[str] = (),
    folder: Path | None = None,
) -> Any:
    """An onnxruntime session on `provider`; single nodes that it lacks run on the providers after it.

    `folder` is where the weights lie that a model in bytes has not with it.
    Raises `InputError` for a file that onnxruntime cannot load and `ProviderError` where the provider does
    not load: onnxruntime itself would silently go on on the CPU.
    """
    record = PROVIDERS[provider]
    name = record.onnxruntime[0]
    if name not in ort.get_available_providers():
        raise ProviderError(f"This onnxruntime has no {name}; install onnxruntime-gpu instead, or use --provider cpu.")
    options = ort.SessionOptions()
    options.log_severity_level = FATAL_ONLY
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    if threads is not None:
        options.intra_op_num_threads = threads
    for variable, value in record.environment.items():
        os.environ.setdefault(variable, value)
    if record.device == "cuda":
        _preload_cuda()
    all_options = {provider.onnxruntime[0]: provider.options(settings) for provider in PROVIDERS.values()}
    providers = [(name, all_options[name]) for name in record.onnxruntime]
    missing = ProviderError(f"{name} does not load on this machine; install {record.install}, or use --provider cpu.")
    try:
        session = ort.InferenceSession(
            model if isinstance(model, bytes) else str(model), options, providers=providers, enable_fallback=0
        )
    except Exception as error:  # onnxruntime raises a dozen unrelated types
        if "TensorRT libraries" in str(error):
            raise missing from error
        raise InputError(f"onnxruntime cannot load {_name(model)} ({one_line(error)}); export it again.") from error
    if name not in session.get_providers():
        raise missing
    return session


def _refuse(path: Path, provider: Provider) -> None:
    """Raise `InputError` for what onnxruntime does not run: it is busy for minutes, crashes, or runs it elsewhere.

    These are too many weights, recurrent nodes of another layout, and a layer that the provider has no kernel for. A
    file without a contract is refused before all that.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, OSError, ValueError):
        return  # a file that is no model is reported when the session opens it
    if onnx_graph.contract_text(model) is None:
        raise without_contract(path)
    if onnx_graph.has_batch_first_nodes(model):
        raise InputError(
            f"{path} has recurrent nodes with layout=1 (batch first), which onnxruntime does not run; write them with "
            "layout=0 between Transpose nodes, or export the weights with lstm-deploy."
        )
    if (count := len(model.graph.initializer)) > MOST_WEIGHTS:
        raise InputError(f"{path} has {count:,} tensors of weights, too many for onnxruntime to open; do not use it.")
    is_float16 = onnx_graph.has_float16_cells(model)
    operators = onnx_graph.operator_counts(model)
    is_int8 = any(cell.quantized_operator in operators for cell in CELLS.values())
    for applies, precision, remedy in (
        (is_float16, "float16", "use --provider cuda, or the float32 artifact"),
        (is_int8, "int8", "use --provider cpu, or export --half"),
    ):
        if applies and (reason := provider.no_kernel.get(precision)):
            raise InputError(f"{path} cannot run on {provider.name}: {reason}; {remedy}.")
    if provider.device == "cpu" and needs_vnni(model) and environment.lacks_vnni():
        raise InputError(
            f"{path} is for CPUs with VNNI, which this one has not: its sums would saturate; export it again without "
            "--int8-cpus vnni."
        )


def _preload_cuda() -> None:
    """Load CUDA and cuDNN from the wheels that PyTorch brings, if they are there.

    A failure shows in the session's providers; here it would only be printed, on standard output too.
    """
    ort.set_default_logger_severity(FATAL_ONLY)
    with redirect_stdout(io.StringIO()):
        ort.preload_dlls()


def probe_providers() -> dict[str, str]:
    """For each execution provider of onnxruntime `loads`, or why it does not load a model of one node.

    onnxruntime's own list names those that it was built with, not those that work on this machine.
    """
    status = {}
    for provider in PROVIDERS.values():
        try:
            check_provider(provider.name)
            status[provider.onnxruntime[0]] = "loads"
        except ProviderError as error:
            status[provider.onnxruntime[0]] = str(error)
    return status


def check_provider(provider: str) -> None:
    """Raise `ProviderError` for an execution provider that does not load here."""
    text = '<ir_version: 9, opset_import: ["": 18]> identity (float[1, 1] x) => (float[1, 1] y) { y = Identity(x) }'
    open_session(parser.parse_model(text).SerializeToString(), provider)


def _dtype(onnxruntime_type: str) -> Any:
    """`float32` for `tensor(float)`; a type that the contract does not have, as it is."""
    number = dict(TensorProto.DataType.items()).get(onnxruntime_type.removeprefix("tensor(").removesuffix(")").upper())
    return onnxruntime_type if number is None else helper.tensor_dtype_to_np_dtype(number).name


def _name(model: Path | bytes) -> str:
    return "the model" if isinstance(model, bytes) else str(model)
