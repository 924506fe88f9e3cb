"""OpenVINO on the CPU, for exported ONNX files: `pip install "lstm-deploy[openvino]"`."""

from pathlib import Path
from typing import Any

import numpy as np

from lstm_deploy.contract import CONTRACT_KEY, Feeds, Outputs, Signature, blank_feeds
from lstm_deploy.errors import InputError, one_line, require
from lstm_deploy.runtimes.protocol import Runtime


class OpenVinoRuntime(Runtime):
    """An exported ONNX file, compiled for the CPU.

    The precision is forced: OpenVINO silently runs float32 models in bfloat16 where the CPU supports it.
    """

    swallows_nan = True

    def __init__(self, path: Path, threads: int | None = None, *, bf16: bool = False) -> None:
        """Raises `MissingPackageError` where OpenVINO is not installed.

        Raises `InputError` for a file that it cannot read, and for a model that takes the lengths of rows.
        """
        require("openvino")
        import openvino

        self._core = openvino.Core()
        try:
            self._model = self._core.read_model(path)
        except RuntimeError as error:
            raise InputError(f"OpenVINO cannot read {path} ({one_line(error)}).") from error
        self.signature: Signature = Signature.from_json(
            self._model.get_rt_info(["framework", CONTRACT_KEY]).astype(str)
        )
        if any(spec.tells_lengths for spec in self.signature.inputs):
            raise InputError("OpenVINO's LSTM ignores the lengths of rows, so short ones would come out wrong.")
        self._options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
        self._options["INFERENCE_PRECISION_HINT"] = "bf16" if bf16 else "f32"
        if threads is not None:
            self._options["INFERENCE_NUM_THREADS"] = threads
        self._compiled: dict[tuple[tuple[int, ...], ...], Any] = {}

    def sized(self, feeds: Feeds) -> Any:
        """The model compiled for the shapes of these inputs alone, which runs fastest.

        Raises `InputError` where OpenVINO has no kernels for it on this CPU.
        """
        shapes = tuple(np.shape(feeds[name]) for name in self.signature.input_names)
        if shapes not in self._compiled:
            model = self._model.clone()
            model.reshape(dict(zip(self.signature.input_names, map(list, shapes), strict=True)))
            try:
                self._compiled[shapes] = self._core.compile_model(model, "CPU", self._options)
            except RuntimeError as error:
                precision = self._options["INFERENCE_PRECISION_HINT"]
                reason = one_line(str(error).strip().splitlines()[-1])
                raise InputError(
                    f"OpenVINO cannot compile the model in {precision} on this CPU ({reason}); leave out its baselines."
                ) from error
        return self._compiled[shapes]

    def run(self, feeds: Feeds) -> Outputs:
        results = self.sized(feeds)({name: feeds[name] for name in self.signature.input_names})
        return {name: results[name] for name in self.signature.output_names}

    def active(self) -> list[str]:
        devices = {
            f"{device} {compiled.get_property('INFERENCE_PRECISION_HINT').get_type_name()}"
            for compiled in self._compiled.values()
            for device in compiled.get_property("EXECUTION_DEVICES")
        }
        return sorted(devices)

    def recur(self, batch: int, seq: int) -> "OpenVinoRecurrence":
        return OpenVinoRecurrence(self, batch, seq)

    def close(self) -> None:
        del self._compiled, self._model


class OpenVinoRecurrence:
    """Two requests used in turn, on shared memory: the state goes from buffers a to b, then from b to a."""

    inputs: Outputs

    def __init__(self, runtime: OpenVinoRuntime, batch: int, seq: int) -> None:
        import openvino

        signature = runtime.signature
        self.inputs, initial = blank_feeds(signature, batch, seq)
        compiled = runtime.sized({**self.inputs, **initial})
        first = compiled({**self.inputs, **initial})
        self.outputs: Outputs = {spec.name: np.zeros_like(first[spec.name]) for spec in signature.outputs}
        self._sides = [{name: value.copy() for name, value in initial.items()} for _ in range(2)]
        self._requests = []
        for before, after in (self._sides, self._sides[::-1]):
            request = compiled.create_infer_request()
            states = zip(signature.state_inputs, signature.state_outputs, strict=True)
            memory = {**self.inputs, **self.outputs, **before}
            memory |= {state_out.name: after[state_in.name] for state_in, state_out in states}
            for name, array in memory.items():
                request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
            self._requests.append(request)
        self._now = 0

    def step(self) -> None:
        self._requests[self._now].infer()
        self._now ^= 1

    advance = step

    def get_state(self) -> Outputs:
        return {name: value.copy() for name, value in self._sides[self._now].items()}

    def set_state(self, state: Feeds) -> None:
        for name, value in self._sides[self._now].items():
            value[...] = state[name]
