"""Finds the line of a user's code that makes a number of a size while a module is exported."""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch

from lstm_deploy.lifting import Lifted, namespaces_of


def first_frozen_line(lifted: Lifted, export: Callable[[], Any]) -> str | None:
    """The first line, as `FILE:LINE`, after which a size of an input of `lifted` is a number; none if all stay open.

    `export` runs `lifted.forward` on symbolic sizes, and may fail.
    """
    search = _Search({id(names) for names in namespaces_of(lifted.module)})
    hook = lifted.register_forward_pre_hook(search.begin)
    before = sys.gettrace()
    sys.settrace(search.enter)
    try:
        export()
    except Exception:  # the failure whose line is looked for
        pass
    finally:
        sys.settrace(before)
        hook.remove()
    return search.found


class _Search:
    """Looks at the sizes before and after each line of some modules."""

    def __init__(self, namespaces: set[int]) -> None:
        self.namespaces = namespaces
        self.found: str | None = None
        self._sizes: list[Any] = []
        self._lines: dict[int, str] = {}

    def begin(self, _: Any, tensors: tuple[torch.Tensor, ...]) -> None:
        sizes: list[Any] = [size for tensor in tensors for size in tensor.shape]
        self._sizes = [size for size in sizes if isinstance(size, torch.SymInt)]

    def enter(self, frame: FrameType, *_: Any) -> Any:
        """Trace functions of the user alone; others count as part of the line that calls them."""
        if self.found or id(frame.f_globals) not in self.namespaces:
            return None
        caller = frame.f_back
        while caller is not None and id(caller.f_globals) not in self.namespaces:
            caller = caller.f_back
        if caller is not None:
            self._look(self._lines.get(id(caller)))
        self._lines[id(frame)] = _place(frame)
        return self.step

    def step(self, frame: FrameType, *_: Any) -> Any:
        self._look(self._lines[id(frame)])
        self._lines[id(frame)] = _place(frame)
        return self.step

    def _look(self, line: str | None) -> None:
        if not self.found and any(size.node.maybe_as_int() is not None for size in self._sizes):
            self.found = line


def _place(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
