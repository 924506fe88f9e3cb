"""From a checkpoint or a live PyTorch module to a lifted module, whose hidden state is an explicit input and output."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
