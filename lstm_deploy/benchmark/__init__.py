"""Latency of artifacts beside their alternatives: interleaved runs, each variant in a process of its own."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
