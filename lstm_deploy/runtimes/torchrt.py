"""PyTorch: TorchScript files, and the lifted module itself, which is the reference and the baseline."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lstm_deploy.artifacts import without_contract
from lstm_deploy.contract import CONTRACT_FILE, Array, Feeds, Outputs, Signature, blank_feeds
from lstm_deploy.errors import CaptureError, InputError, ProviderError, one_line, user_line
from lstm_deploy.lifting import Lifted
from lstm_deploy.runtimes.protocol import Runtime
from lstm_deploy.runtimes.providers import PROVIDERS


class TorchRuntime(Runtime):
    """A callable of tensors in the order of the contract, on one device, in one floating-point type."""

    dtype: torch.dtype = torch.float32
    device: str
    settings: Sequence[str]
    module: Any
    signature: Signature
    provider: str

    def __init__(
        self, module: Any, signature: Signature, provider: str, threads: int | None, settings: Sequence[str] = ()
    ) -> None:
        self.device, self.settings = prepare(provider, threads, settings), settings
        self.module, self.signature, self.provider = module.to(self.device), signature, provider

    def call(self, tensors: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        with torch.inference_mode():
            result: tuple[torch.Tensor, ...] = self.module(*tensors)
            return result

    def tensor(self, value: Any) -> torch.Tensor:
        tensor = torch.from_numpy(np.require(value, requirements=("C", "W")))
        return tensor.to(self.device, self.dtype if tensor.is_floating_point() else tensor.dtype)

    def run(self, feeds: Feeds) -> Outputs:
        try:
            outputs = self.call([self.tensor(feeds[name]) for name in self.signature.input_names])
        except Exception as error:  # whatever the user's forward raises
            raise InputError(f"PyTorch cannot run this input ({one_line(error)}{user_line(error)}).") from error
        arrays = [output.cpu().numpy() for output in outputs]
        return dict(zip(self.signature.output_names, arrays, strict=True))

    def misplaced(self) -> list[str]:
        tensors = (*self.module.parameters(), *self.module.buffers())
        elsewhere = {tensor.device.type for tensor in tensors} - {self.device}
        return [f"Some weights are on {device}." for device in sorted(elsewhere)]

    def active(self) -> list[str]:
        return [torch.cuda.get_device_name()] if self.device == "cuda" else [self.provider]

    def recur(self, batch: int, seq: int) -> "TorchRecurrence":
        return (GraphRecurrence if "graph" in self.settings else TorchRecurrence)(self, batch, seq)

    def close(self) -> None:
        del self.module


class EagerRuntime(TorchRuntime):
    """A lifted module as PyTorch runs it."""

    def __init__(
        self, lifted: Lifted, provider: str = "cpu", threads: int | None = None, settings: Sequence[str] = ()
    ) -> None:
        super().__init__(lifted.float(), lifted.signature, provider, threads, settings)


class TorchScriptRuntime(TorchRuntime):
    """An exported TorchScript file, with the contract that it carries."""

    def __init__(
        self, path: Path, provider: str = "cpu", threads: int | None = None, settings: Sequence[str] = ()
    ) -> None:
        extra = {CONTRACT_FILE: ""}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # all of torch.jit warns that it is deprecated
            try:
                module = torch.jit.load(str(path), map_location="cpu", _extra_files=extra)  # type: ignore[no-untyped-call]
            except (RuntimeError, UnicodeDecodeError) as error:
                raise InputError(f"PyTorch cannot load {path} ({one_line(error)}); check or re-export it.") from error
        if not extra[CONTRACT_FILE]:
            raise without_contract(path)
        super().__init__(module, Signature.from_json(extra[CONTRACT_FILE]), provider, threads, settings)


class TorchRecurrence:
    """Keeps the state as tensors on the device; inputs are copied from, and outputs to, arrays on the CPU."""

    def __init__(self, runtime: TorchRuntime, batch: int, seq: int) -> None:
        self._runtime, signature = runtime, runtime.signature
        blank, initial = blank_feeds(signature, batch, seq)
        hosts = {name: self._host(value) for name, value in blank.items()}
        self.inputs: Outputs = {name: host.numpy() for name, host in hosts.items()}
        self._inputs = [runtime.tensor(value) for value in self.inputs.values()]
        pairs = zip(self._inputs, hosts.values(), strict=True)
        self._copied = [(tensor, host) for tensor, host in pairs if tensor.data_ptr() != host.data_ptr()]
        self._state: list[torch.Tensor] = []
        self._state_names = [spec.name for spec in signature.state_inputs]
        self.set_state(initial)
        self._results = runtime.call([*self._inputs, *self._state])
        pairs_of_outputs = zip(signature.outputs, self._results, strict=False)
        self._outputs = [self._host(np.zeros(value.shape, spec.dtype)) for spec, value in pairs_of_outputs]
        names = [spec.name for spec in signature.outputs]
        self.outputs: Outputs = {name: host.numpy() for name, host in zip(names, self._outputs, strict=True)}

    def step(self) -> None:
        for tensor, host in self._copied:
            tensor.copy_(host, non_blocking=True)  # in order with the run
        self.run()
        for target, result in zip(self._outputs, self._results, strict=False):
            target.copy_(result, non_blocking=True)
        self._wait()

    def advance(self) -> None:
        self.run()
        self._wait()

    def run(self) -> None:
        self._results = self._runtime.call([*self._inputs, *self._state])
        self._state = list(self._results[len(self._outputs) :])

    def _host(self, value: Array) -> torch.Tensor:
        """The array as a tensor of the CPU; for a GPU in memory that it can read by itself."""
        host = torch.from_numpy(value)
        return host.pin_memory() if self._runtime.device == "cuda" else host

    def _wait(self) -> None:
        if self._runtime.device == "cuda":
            torch.cuda.current_stream().synchronize()

    def get_state(self) -> Outputs:
        return {name: value.cpu().numpy().copy() for name, value in zip(self._state_names, self._state, strict=True)}

    def set_state(self, state: Feeds) -> None:
        self._state = [self._runtime.tensor(np.array(state[name])) for name in self._state_names]


class GraphRecurrence(TorchRecurrence):
    """Captures a CUDA graph and replays it: at fixed addresses, with nothing launched from Python."""

    def __init__(self, runtime: TorchRuntime, batch: int, seq: int) -> None:
        super().__init__(runtime, batch, seq)
        try:
            self._capture()
        except RuntimeError as error:  # a copy to the CPU, as of lengths, cannot be part of a graph
            raise CaptureError(f"It cannot be recorded as a CUDA graph ({one_line(error, 100)}).") from error

    def _capture(self) -> None:
        before = [state.clone() for state in self._state]  # warming up and capturing run the model, so the state moves
        # PyTorch requires warm-up on a stream other than the default one before a capture.
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._run_in_place()
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._run_in_place()
        for state, value in zip(self._state, before, strict=True):
            state.copy_(value)

    def run(self) -> None:
        self._graph.replay()

    def set_state(self, state: Feeds) -> None:
        if not self._state:
            super().set_state(state)
            return
        for tensor, name in zip(self._state, self._state_names, strict=True):
            tensor.copy_(torch.from_numpy(np.ascontiguousarray(state[name])))

    def _run_in_place(self) -> None:
        self._results = self._runtime.call([*self._inputs, *self._state])
        for state, after in zip(self._state, self._results[len(self._outputs) :], strict=True):
            state.copy_(after)


def has_cuda() -> bool:
    """Whether PyTorch sees a CUDA device here."""
    return torch.cuda.is_available()


def prepare(provider: str, threads: int | None, settings: Sequence[str] = ()) -> str:
    """Set what PyTorch has one setting of for the whole process; returns the device of the provider.

    Raises `ProviderError` where PyTorch has no such device.
    """
    device = PROVIDERS[provider].device
    if device == "cuda":
        if not has_cuda():
            raise ProviderError("PyTorch sees no CUDA device here; use --provider cpu.")
        # TF32 rounds inputs to 10 bits: fast, and far outside float32's tolerance
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = "tf32" in settings
    if threads is not None:
        torch.set_num_threads(threads)
    return device
