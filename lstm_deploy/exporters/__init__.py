"""One writer for each format, and the pipeline that writes, proves and only then names a bundle."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
