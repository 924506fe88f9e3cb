"""Files on disk: bundles, ONNX graphs, C weights and parity reports, read and written without running a model."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
