"""The interface of all runtimes: an artifact that was loaded, and its buffers for calls of one size."""

from typing import Protocol

from lstm_deploy.contract import Feeds, Outputs, Signature, TensorSpec


class Recurrence(Protocol):
    """A model at one batch size and length, whose buffers are made once and whose state is kept between calls."""

    inputs: Outputs
    """Write the next inputs into these arrays."""
    outputs: Outputs
    """Read the latest outputs from these arrays, which the next `step` overwrites."""

    def step(self) -> None:
        """Run once from the state that the last call left."""

    def advance(self) -> None:
        """Run once more on the inputs of the last `step`, copy nothing, and wait until it is computed."""

    def get_state(self) -> Outputs:
        """A copy of the state, by the names of the state inputs."""

    def set_state(self, state: Feeds) -> None:
        """Continue from a copy of this state."""


class Runtime(Protocol):
    """An artifact that was loaded and can be run. The defaults suit runtimes of the CPU that load a file of ours."""

    signature: Signature
    provider: str = "cpu"
    swallows_nan: bool = False
    """Whether its LSTM, or another of its kernels, gives numbers where NaN is right."""

    @property
    def rollout(self) -> "Runtime | None":
        """The rollout that the same file holds; none where that is a file of its own, or the model has none."""
        return None

    def run(self, feeds: Feeds) -> Outputs:
        """All outputs, state included, for all inputs, state included."""

    def declared(self) -> list[TensorSpec] | None:
        """Inputs and outputs as the file itself declares them, apart from its contract; none where it does not."""
        return None

    def misplaced(self) -> list[str]:
        """A sentence for each kind of work that is not done on `provider`."""
        return []

    def active(self) -> list[str]:
        """Where it computes, in the runtime's own words."""
        return [self.provider]

    def recur(self, batch: int, seq: int) -> Recurrence:
        """Buffers for calls of `[batch, seq]`, starting from the initial state."""

    def close(self) -> None:
        """Free what the runtime holds."""
        return
