"""The state contract: what a model takes, returns and carries between calls. Nothing here runs one."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
