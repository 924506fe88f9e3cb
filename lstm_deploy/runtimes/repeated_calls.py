"""Whole calls on a GPU whose sizes repeat: recorded as a CUDA graph, then replayed without launching each kernel."""

from collections import OrderedDict
from threading import Lock

from lstm_deploy.contract import Feeds, Outputs
from lstm_deploy.errors import CaptureError
from lstm_deploy.runtimes.protocol import Recurrence, Runtime

MOST_SIZES = 8
"""Sizes whose graphs are kept at once, as each holds buffers on the GPU."""

Sizes = tuple[tuple[int, ...], ...]


class RepeatedCalls:
    """Runs a model as `Runtime.run` does. Threads may share it, one call at a time for sizes that are recorded."""

    problem: str

    def __init__(self, runtime: Runtime) -> None:
        self._runtime, self._signature = runtime, runtime.signature
        self._recorded: OrderedDict[Sizes, Recurrence | None] = OrderedDict()
        """By the shapes of the inputs, the latest last; none for those that were seen once."""
        self._using = Lock()
        self.problem = ""
        """Why no call can be recorded; empty as far as is known."""
        dims = {dim for spec in self._signature.inputs for dim in spec.shape if isinstance(dim, str)}
        if any(spec.is_lengths for spec in self._signature.inputs):
            self.problem = "a recorded call would repeat the lengths of the first"
        elif not dims <= {"batch", "seq"}:
            self.problem = "its inputs have sizes beside batch and seq"

    def run(self, feeds: Feeds) -> Outputs:
        """All outputs, state included, for all inputs, state included."""
        if self.problem:
            return self._runtime.run(feeds)
        with self._using:
            recurrence = self._recurrence(feeds)
            if recurrence is None:
                return self._runtime.run(feeds)
            for name, value in recurrence.inputs.items():
                value[...] = feeds[name]
            recurrence.set_state({spec.name: feeds[spec.name] for spec in self._signature.state_inputs})
            recurrence.step()
            outputs = {name: value.copy() for name, value in recurrence.outputs.items()}
            return {**outputs, **self._signature.outgoing_state(recurrence.get_state())}

    def _recurrence(self, feeds: Feeds) -> Recurrence | None:
        """The buffers of a call that has been seen before; none for the first of its sizes."""
        shapes = tuple(feeds[spec.name].shape for spec in self._signature.inputs)
        recurrence = self._recorded.get(shapes)
        if recurrence is None and shapes in self._recorded and not self.problem:
            sizes = {"batch": 1, "seq": 1}
            for spec, shape in zip(self._signature.inputs, shapes, strict=True):
                sizes |= {dim: size for dim, size in zip(spec.shape, shape, strict=True) if isinstance(dim, str)}
            try:
                recurrence = self._runtime.recur(sizes["batch"], sizes["seq"])
            except CaptureError as error:
                self.problem = str(error)
        self._recorded[shapes] = recurrence
        self._recorded.move_to_end(shapes)
        while len(self._recorded) > MOST_SIZES:
            self._recorded.popitem(last=False)
        return recurrence
