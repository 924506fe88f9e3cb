"""Execution providers: one record each, which holds all that the package knows about a provider but its tolerances.

The tolerances are in `validation.tolerances`, by precision and provider.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lstm_deploy.errors import check_known


@dataclass(frozen=True, kw_only=True)
class Provider:
    """An execution provider."""

    name: str
    """As on the command line."""
    onnxruntime: tuple[str, ...]
    """Its name in onnxruntime, then the names of those that take the nodes it leaves, in order."""
    device: str
    """Where its arrays lie, as onnxruntime and PyTorch call it."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """What can be asked of it: each setting, and the option of onnxruntime's provider that turns it on."""
    for_repeats: tuple[str, ...] = ()
    """The settings that suit calls whose sizes repeat, as the steps of a stream."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that are set, unless the user has, before onnxruntime loads it."""
    no_kernel: Mapping[str, str] = field(default_factory=dict)
    """Precisions whose recurrent layers it cannot run, and why."""
    install: str = "onnxruntime"
    """What has to be installed where it does not load."""

    def options(self, settings: Sequence[str]) -> dict[str, str]:
        """Options of onnxruntime's provider, the settings that are not asked for turned off."""
        return {option: str(int(setting in settings)) for setting, option in self.settings.items()}


PROVIDERS = {
    provider.name: provider
    for provider in (
        Provider(
            name="cpu",
            onnxruntime=("CPUExecutionProvider",),
            device="cpu",
            no_kernel={"float16": "the CPU has no float16 recurrent layers"},
        ),
        Provider(
            name="cuda",
            onnxruntime=("CUDAExecutionProvider", "CPUExecutionProvider"),
            device="cuda",
            # tf32 rounds factors to 10 bits: fast, and far outside float32's tolerance.
            # graph captures the kernels of a step once and replays them in `Recurrence.step`.
            settings={"tf32": "use_tf32", "graph": "enable_cuda_graph"},
            for_repeats=("graph",),
            no_kernel={"int8": "CUDA has no int8 LSTM, GRU or RNN, and would leave it to the CPU"},
            install="onnxruntime-gpu[cuda,cudnn] and an NVIDIA driver",
        ),
        Provider(
            name="tensorrt",
            onnxruntime=("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
            device="cuda",
            environment={"NVIDIA_TF32_OVERRIDE": "0"},  # TensorRT has no option for it
            no_kernel={"int8": "TensorRT has no int8 LSTM, GRU or RNN of this kind, and would leave it to the CPU"},
            install="onnxruntime-gpu[cuda,cudnn], TensorRT's libraries and an NVIDIA driver",
        ),
    )
}
"""By the names of the command line."""


def find_provider(name: str) -> Provider:
    """The provider of that name; raises `InputError` where there is none."""
    check_known(name, PROVIDERS, "an execution provider")
    return PROVIDERS[name]
