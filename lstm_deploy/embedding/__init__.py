"""Client programs in seven languages, generated from a contract, each with a golden trace to replay."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
