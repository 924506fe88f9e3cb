"""Take an LSTM, GRU or RNN out of PyTorch: ONNX and TorchScript with explicit state, proven equal, measured.

    bundle = lstm_deploy.export(module, "exported/mine", inputs={"x": "float32[batch,seq,40]"})
    lstm_deploy.validate(bundle, reference=module).assert_passed()
    stream = lstm_deploy.open(bundle).stream(batch=1)
    report = lstm_deploy.bench(bundle)

Everything public is here. A path is a text, a `Path` or a `Bundle`. Names are loaded when they are used: PyTorch only
by `export`, and by `validate` and `bench` where there is a PyTorch model to compare with. A package that is missing is
a `MissingPackageError`, which is an `ImportError`, too.
"""

from typing import Any

import lazy_loader

from lstm_deploy.errors import machine_limits

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("lstm-deploy")
    with machine_limits():  # what `name` needs may not be installed
        return _load(name)
