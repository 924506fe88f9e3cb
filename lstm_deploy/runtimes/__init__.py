"""What runs an artifact: ONNX Runtime, PyTorch, OpenVINO and compiled C behind one protocol, and the streams on top."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
