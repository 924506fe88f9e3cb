"""Take an LSTM out of PyTorch: ONNX and TorchScript with explicit state, proven equal, measured.

    bundle = lstm_deploy.export(module, "exported/mine", inputs={"x": "float32[batch,seq,40]"})
    report = lstm_deploy.validate(bundle)
    stream = lstm_deploy.open("exported/mine").stream(batch=1)

Everything public is here. Names are loaded when they are used: PyTorch only by `export`, and by
`validate` where there is a PyTorch model to compare with.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lstm_deploy.benchmark import Plan, bench
    from lstm_deploy.bundle import Bundle
    from lstm_deploy.checks import Check, Diagnosis, ParityReport
    from lstm_deploy.embedding import embed
    from lstm_deploy.errors import InputError, LiftingError, LstmDeployError, ParityError, ProviderError
    from lstm_deploy.exporters import export
    from lstm_deploy.signature import RecurrentSpec, Signature, TensorSpec
    from lstm_deploy.slots import Slots
    from lstm_deploy.streaming import Model, Stream, open
    from lstm_deploy.tasks import Classify, Forecast, LanguageModel
    from lstm_deploy.validation import validate

_HOMES = {
    "Bundle": "bundle",
    "Check": "checks",
    "Classify": "tasks",
    "Diagnosis": "checks",
    "Forecast": "tasks",
    "InputError": "errors",
    "LanguageModel": "tasks",
    "LiftingError": "errors",
    "LstmDeployError": "errors",
    "Model": "streaming",
    "ParityError": "errors",
    "ParityReport": "checks",
    "Plan": "benchmark",
    "ProviderError": "errors",
    "RecurrentSpec": "signature",
    "Signature": "signature",
    "Slots": "slots",
    "Stream": "streaming",
    "TensorSpec": "signature",
    "bench": "benchmark",
    "embed": "embedding",
    "export": "exporters",
    "open": "streaming",
    "validate": "validation",
}

__all__ = [
    "Bundle",
    "Check",
    "Classify",
    "Diagnosis",
    "Forecast",
    "InputError",
    "LanguageModel",
    "LiftingError",
    "LstmDeployError",
    "Model",
    "ParityError",
    "ParityReport",
    "Plan",
    "ProviderError",
    "RecurrentSpec",
    "Signature",
    "Slots",
    "Stream",
    "TensorSpec",
    "bench",
    "embed",
    "export",
    "open",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
