"""Using a bundle from Python without PyTorch: whole calls, rollouts, and streams that carry their state."""

import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from threading import Lock

from lstm_deploy.artifacts import FORMATS, Artifact, Bundle, as_path, restore
from lstm_deploy.contract import Feeds, Forecast, Outputs, Signature, check_rollout_inputs, rollout_contract
from lstm_deploy.errors import CaptureError, InputError, check_known, machine_limits, one_line, refuse_unused
from lstm_deploy.runtimes.input_checks import check_finite, complete_feeds
from lstm_deploy.runtimes.opening import RUNTIMES, is_faster_in_torch, open_runtime
from lstm_deploy.runtimes.protocol import Runtime
from lstm_deploy.runtimes.providers import find_provider
from lstm_deploy.runtimes.repeated_calls import RepeatedCalls
from lstm_deploy.runtimes.stepping import unroll
from lstm_deploy.runtimes.streams import StateStream, Stream, WindowStream

_LOG = logging.getLogger("lstm_deploy")


def open(path: str | os.PathLike[str]) -> "Model":  # noqa: A001 - the public name
    """Open a bundle, or a single artifact, for use.

    Raises `InputError` for anything else.
    """
    return Model(path)


class Model:
    """A bundle whose artifacts are loaded when they are first used, on one thread each.

    Threads may share a model, as its runtimes keep no state. A stream has one set of buffers, so each thread needs its
    own, or a lock around each call.

    Everywhere `provider` is `cpu`, `cuda` or `tensorrt`, `precision` is `float32`, `int8` or `float16`, and `runtime`
    is `onnx`, `native`, which runs the compiled C artifact, or `torchscript`, which alone needs PyTorch. By default it
    is the first of them whose artifact is in the bundle and runs on the provider; on CUDA it is TorchScript, where
    PyTorch has faster kernels than ONNX Runtime.

    On CUDA, steps of streams and whole calls whose sizes repeat are recorded as CUDA graphs and replayed. Where a model
    cannot be recorded, the log of `lstm_deploy` says so, and it runs without.
    """

    path: Path
    bundle: Bundle | None
    """None for a single artifact."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path = as_path(path)
        restore(path)
        if not path.exists():
            raise InputError(f"{path} does not exist; give a bundle or an artifact of one.")
        self.bundle = Bundle(path) if path.is_dir() else None
        self._runtimes: dict[tuple[Path, str, Sequence[str]], Runtime] = {}
        self._repeated: dict[Runtime, RepeatedCalls] = {}
        self._loading = Lock()

    def __repr__(self) -> str:
        """What it takes, gives and carries, and what can run it, as far as that is known without loading it."""
        if self.bundle is None:
            return f"<Model {self.path}>"
        contract = self.bundle.signature
        given, got, state = (
            ", ".join(map(str, specs)) for specs in (contract.inputs, contract.outputs, contract.state_inputs)
        )
        artifacts = ", ".join(f"{file.format} {file.precision}" for file in self.bundle.manifest.artifacts)
        return f"<Model {self.path} ({artifacts}): {given} -> {got}; state {state}>"

    def __fspath__(self) -> str:
        """The path of its bundle or artifact."""
        return str(self.path)

    @property
    def signature(self) -> Signature:
        """The state contract: what it takes, gives and carries."""
        return self.bundle.signature if self.bundle else self.runtime().signature

    @property
    def rollout_contract(self) -> Signature:
        """Inputs and outputs of `rollout`; raises `InputError` for a model that cannot feed itself."""
        return self.signature if self.signature.rollout else rollout_contract(self.signature)

    def runtime(self, provider: str = "cpu", precision: str = "float32", runtime: str | None = None) -> Runtime:
        """The runtime of an artifact, loaded once; raises `InputError` where the bundle has no such artifact."""
        return self._runtime(provider, precision, runtime, find_provider(provider).for_repeats)

    def _runtime(self, provider: str, precision: str, runtime: str | None, settings: Sequence[str]) -> Runtime:
        if self.bundle is None:
            chosen = {"precision": precision != "float32" and precision, "runtime": runtime}
            refuse_unused(f"on {self.path}, which is a single artifact", **chosen)
            return self._load(self.path, provider, settings)
        format_ = _format_of(self.bundle, runtime, provider, precision)
        return self._of_bundle(self.bundle, self.bundle.find(format_, precision), provider, settings)

    @machine_limits()
    def run(
        self,
        feeds: Feeds,
        *,
        provider: str = "cpu",
        precision: str = "float32",
        runtime: str | None = None,
        allow_nan: bool = False,
    ) -> Outputs:
        """One call: all outputs by name. State that is not fed is the initial state.

        Raises `InputError` for inputs that are not those of the contract, and for NaN and infinities in them, unless
        with `allow_nan`: runtimes give numbers for NaN.
        """
        loaded = self.runtime(provider, precision, runtime)
        calls = self._repeated.get(loaded, loaded)
        return calls.run(complete_feeds(loaded.signature, feeds, allow_nan=allow_nan))

    @machine_limits()
    def rollout(
        self,
        feeds: Feeds,
        *,
        provider: str = "cpu",
        precision: str = "float32",
        runtime: str | None = None,
        allow_nan: bool = False,
    ) -> Outputs:
        """Many steps, the model fed with its own outputs; `contract.rollouts` describes the inputs and outputs.

        One call of the bundle's rollout where it has one; else one call of the model for each step, which gives the
        same. Raises `InputError` for a model that cannot feed itself, and for inputs as `run` does.
        """
        loaded = self._runtime(provider, precision, runtime or self._runtime_of_rollouts(), ())
        contract = self.rollout_contract
        completed = complete_feeds(contract, feeds, allow_nan=True)
        check_rollout_inputs(contract, completed)  # first, as it says more of noise and temperature
        if not allow_nan:
            check_finite(contract, completed)
        if loaded.signature.rollout:  # the file that was opened is one
            return loaded.run(completed)
        rollout = loaded.rollout or self._rollout_file(provider, precision, runtime)
        return rollout.run(completed) if rollout else unroll(loaded, completed)

    @machine_limits()
    def stream(
        self,
        batch: int = 1,
        provider: str = "cpu",
        precision: str = "float32",
        runtime: str | None = None,
        *,
        window: int | None = None,
        allow_nan: bool = False,
    ) -> Stream:
        """A stream of `batch` rows that starts from the initial state.

        Its state is what the model carries; or, with `window`, and where a forecaster cannot carry one, the latest
        `window` rows, on which each step starts anew. NaN and infinities are refused unless with `allow_nan`.
        Raises `InputError` for a model that cannot be streamed.
        """
        loaded = self.runtime(provider, precision, runtime)
        signature = loaded.signature
        is_forecaster = isinstance(signature.task, Forecast) and len(signature.inputs) == 1
        if window is not None or (signature.streaming == "none" and is_forecaster):
            return WindowStream(loaded, batch, window, allow_nan=allow_nan)
        try:
            return StateStream(loaded, batch, allow_nan=allow_nan)
        except CaptureError as error:
            _LOG.warning("%s Streams run without one, which is slower.", error)
            return StateStream(self._runtime(provider, precision, runtime, ()), batch, allow_nan=allow_nan)

    def _of_bundle(self, bundle: Bundle, artifact: Artifact, provider: str, settings: Sequence[str]) -> Runtime:
        return self._load(bundle.file(artifact), provider, settings, lambda: bundle.check_unchanged(artifact))

    def _load(
        self, path: Path, provider: str, settings: Sequence[str], check: Callable[[], None] | None = None
    ) -> Runtime:
        """The runtime of a file; `check` stands in place of that of `open_runtime`, which reads the manifest anew."""
        key = path, provider, settings
        with self._loading:
            if key not in self._runtimes:
                if check:
                    check()
                # One thread: a step of an LSTM is too short to share, and waiting threads cost other programs.
                opened = partial(open_runtime, path, provider, threads=1, even_changed=bool(check))
                try:
                    self._runtimes[key] = loaded = opened(settings=settings)
                    if settings:
                        self._repeated[loaded] = RepeatedCalls(loaded)
                except InputError as error:
                    if not settings:
                        raise
                    self._runtimes[key] = opened()  # which raises what is wrong without them, too
                    _LOG.warning("%s runs without a CUDA graph, which is slower (%s).", path.name, one_line(error))
            return self._runtimes[key]

    def _runtime_of_rollouts(self) -> str | None:
        """The runtime of the rollouts in the bundle, if it has any: one call of these is faster than many steps."""
        rollouts = {artifact.format for artifact in self.bundle.manifest.rollouts} if self.bundle else set()
        return next((RUNTIMES[format_].runtime for format_ in RUNTIMES if format_ in rollouts), None)

    def _rollout_file(self, provider: str, precision: str, runtime: str | None) -> Runtime | None:
        if self.bundle is None:
            return None
        rollouts = {(artifact.format, artifact.precision): artifact for artifact in self.bundle.manifest.rollouts}
        artifact = rollouts.get((_format_of(self.bundle, runtime, provider, precision), precision))
        return self._of_bundle(self.bundle, artifact, provider, ()) if artifact else None


def _format_of(bundle: Bundle, runtime: str | None, provider: str, precision: str) -> str:
    """The format that a runtime runs; by default the preferred one that the bundle has an artifact of."""
    if runtime is None:
        found = {artifact.format for artifact in bundle.manifest.artifacts if artifact.precision == precision}
        formats = [format_ for format_ in RUNTIMES if format_ in found and provider in FORMATS[format_].providers]
        if "torchscript" in formats and is_faster_in_torch(bundle.signature, provider):
            return "torchscript"
        return formats[0] if formats else "onnx"
    by_runtime = {loader.runtime: format_ for format_, loader in RUNTIMES.items()}
    check_known(runtime, by_runtime, "a runtime")
    return by_runtime[runtime]
