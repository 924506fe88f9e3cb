"""Padded sequences of unequal length, which stay padded while a lifted module runs.

`pack_padded_sequence` makes tensors whose sizes depend on the data, which no exporter can trace. While a lifted
module runs, a `PackedSequence` holds all steps of all rows instead, padding included, and in the place of
`batch_sizes` the lengths of its rows. What a forward does to `data` alone (linear layers, dropout, embeddings) it does
to padded steps too, which nothing looks at: recurrent modules stop at the end of a row, and `pad_packed_sequence`
fills the rest.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import CodeType, FunctionType
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.utils import rnn
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode

from lstm_deploy.errors import LiftingError, is_user_code
from lstm_deploy.lifting.state_structure import children_of


def _own(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function under another object, whose code stays as it is."""
    assert isinstance(function, FunctionType)
    return FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__)


# PyTorch's own functions: while a module runs, those of `rnn` are redirected to stand-ins.
pack_padded_sequence: Callable[..., Any] = _own(rnn.pack_padded_sequence)
pad_packed_sequence: Callable[..., Any] = _own(rnn.pad_packed_sequence)


class Packing(NamedTuple):
    """How a module packs padded rows."""

    takes_numbers: bool = False
    """Whether it makes numbers of lengths first: `lengths.tolist()`, `list(lengths)`, `lengths.numpy()`."""
    sorts_rows: bool = False
    """Whether it sorts the rows by length first, and restores their order afterwards."""
    demands_sorted: bool = False
    """Whether it takes only rows that are sorted by falling length."""


class PackCall(NamedTuple):
    """What one call of `pack_padded_sequence` was given."""

    lengths: Tensor
    are_numbers: bool
    """Whether the lengths came as a list, a tuple or an array."""


_COMPUTING = (
    *("__len__", "__iter__", "__getitem__", "__int__", "__index__", "__array__", "__neg__", "__add__", "__sub__"),
    *("__mul__", "__radd__", "__rsub__", "__rmul__", "__lt__", "__gt__", "__le__", "__ge__"),
)
"""What Python calls on what it computes with."""


class _NoNumbers:
    """What stands in the place of numbers that a graph does not have: what computes with them is refused."""

    _use: str
    """What the user's code does with it, in an error."""

    def __init_subclass__(cls) -> None:
        for name in _COMPUTING:
            if name not in vars(cls):
                setattr(cls, name, cls._refused)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # of protocols of Python and PyTorch
            raise AttributeError(name)
        self._refused()

    def _refused(self, *_: object) -> NoReturn:
        _refuse(self._use)


class PaddedSteps(_NoNumbers):
    """In the place of `batch_sizes`: the lengths `[batch]` of rows, and all their steps `[seq, batch, …]`."""

    _use = "reads the batch_sizes of a PackedSequence"
    device: torch.device = torch.device("cpu")
    """Where `PackedSequence` wants its `batch_sizes`."""
    padded: Tensor
    lengths: Tensor

    def __init__(self, padded: Tensor, lengths: Tensor, *, zero_beyond: bool = False) -> None:
        """`zero_beyond` says that `padded` is 0 where a row has ended."""
        self.padded, self.lengths = padded, lengths
        self._data, self._zero_beyond = padded.flatten(0, 1), zero_beyond

    def packed(self) -> PackedSequence:
        """A `PackedSequence` of `data` `[seq * batch, …]` with these lengths, its rows in the order that they have."""
        order = torch.arange(self.padded.shape[1], device=self.padded.device)
        return PackedSequence(self._data, self, order, order)  # type: ignore[arg-type]

    def steps_of(self, data: Tensor) -> Tensor:
        """`data`, or what a forward made of it, as `[seq, batch, …]`."""
        return self.padded if data is self._data else data.reshape(*self.padded.shape[:2], *data.shape[1:])

    def filled(self, data: Tensor, value: float) -> Tensor:
        """The same with `value` where a row has ended."""
        padded = self.steps_of(data)
        if data is self._data and self._zero_beyond and value == 0:
            return padded
        steps = torch.arange(padded.shape[0], device=padded.device)
        ended = steps[:, None] >= self.lengths.to(padded.device)
        return padded.masked_fill(ended.reshape(*ended.shape, *[1] * (padded.dim() - 2)), value)

    def __getitem__(self, step: object) -> int:
        if not isinstance(step, int) or step != 0:
            self._refused()
        return self.padded.shape[1]  # every row has a first step

    @classmethod
    def __torch_function__(cls, *_: object) -> NoReturn:
        _refuse(cls._use)


class RowNumbers(_NoNumbers):
    """In the place of the lengths of all rows as numbers, which a graph does not have: they can be packed with."""

    _use = "computes with lengths as numbers"

    def __init__(self, lengths: Tensor) -> None:
        self.lengths = lengths

    def tolist(self) -> "RowNumbers":
        """As arrays have it."""
        return self

    def item(self) -> "RowNumbers":
        """As each of several tensors has it: `list(lengths)` holds this alone, in the place of all."""
        return self


class LengthsAsTensors(TorchFunctionMode):
    """Keeps lengths tensors where forward makes numbers of them, and rows in their order where it sorts them.

    Rows need no order while they stay padded, so that a sort by length may leave them as they are: what is undone
    afterwards is undone.
    """

    NUMBERS: tuple[Callable[..., Any], ...] = (Tensor.tolist, Tensor.numpy)
    SORTS: tuple[Callable[..., Any], ...] = (Tensor.sort, torch.sort)
    ORDERS: tuple[Callable[..., Any], ...] = (Tensor.argsort, torch.argsort)

    def __init__(self, packing: Packing) -> None:
        super().__init__()
        self._packing = packing

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        x = args[0] if args else None
        if isinstance(x, Tensor) and x.dim() == 1 and not x.is_floating_point():
            if self._packing.takes_numbers:
                if func in self.NUMBERS:
                    return RowNumbers(x)
                if func is Tensor.unbind:  # as list(x) does
                    return (RowNumbers(x),)
                if func is Tensor.__len__:  # list(x) does without it
                    raise TypeError("len() makes a number of a size; use shape[0]")
            if self._packing.sorts_rows and func in self.SORTS:
                return torch.return_types.sort((x, torch.arange(x.shape[0], device=x.device)))
            if self._packing.sorts_rows and func in self.ORDERS:
                return torch.arange(x.shape[0], device=x.device)
        return func(*args, **(kwargs or {}))


def packed_in_any_order(x: Tensor, lengths: Tensor) -> PackedSequence:
    """Time-major rows as PyTorch packs them, also within `kept_padded`."""
    with torch._C.DisableTorchFunction():  # sorting by length is no business of the forward here
        return pack_padded_sequence(x, lengths, enforce_sorted=False)  # type: ignore[no-any-return]


def namespaces_of(module: nn.Module) -> list[dict[str, Any]]:
    """The global names of the code of a module and its children, PyTorch's and ours left out; each once."""
    found: list[dict[str, Any]] = []
    for child in module.modules():
        home = type(child).__module__
        if home in sys.modules and not home.startswith(("torch.", "lstm_deploy.")):
            found.append(vars(sys.modules[home]))
        if hasattr(child.forward, "__func__") and home.partition(".")[0] != "lstm_deploy":
            found.append(child.forward.__func__.__globals__)
    return list({id(names): names for names in found}.values())


@contextmanager
def kept_padded(packing: Packing) -> Iterator[None]:
    """Within the block, rows stay padded, whatever name PyTorch's functions are called by."""
    with ExitStack() as stack:
        for name, stand_in in _STAND_INS.items():
            stack.enter_context(_redirected(name, stand_in))
        if packing.takes_numbers or packing.sorts_rows:
            stack.enter_context(LengthsAsTensors(packing))
        yield


@contextmanager
def observed() -> Iterator[list[PackCall]]:
    """Within the block, every call of `pack_padded_sequence` is noted, and done as ever."""
    calls: list[PackCall] = []

    def pack(
        input: Tensor,  # noqa: A002 - as PyTorch names it
        lengths: Any,
        batch_first: bool = False,
        enforce_sorted: bool = True,
    ) -> Any:
        calls.append(PackCall(torch.as_tensor(lengths).detach().clone(), not isinstance(lengths, Tensor)))
        return pack_padded_sequence(input, lengths, batch_first, enforce_sorted)

    with _redirected("pack_padded_sequence", pack):
        yield calls


def check_returned(returned: Any) -> None:
    """Raise `LiftingError` where a forward returns a packed sequence, or tensors in an object that cannot be opened."""
    if isinstance(returned, PackedSequence):
        raise LiftingError("forward returns a PackedSequence; return what pad_packed_sequence makes of it.")
    children = children_of(returned)
    held = () if children or isinstance(returned, Tensor) else getattr(returned, "__dict__", {}).values()
    if any(isinstance(value, Tensor) for value in held):
        raise LiftingError(
            f"forward returns tensors in a {type(returned).__name__}; return them in a tuple, a dict or a dataclass."
        )
    for _, child in children:
        check_returned(child)


def _pack(input: Tensor, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True) -> PackedSequence:  # noqa: A002, ARG001
    if isinstance(lengths, list | tuple) and len(lengths) == 1 and isinstance(lengths[0], RowNumbers):
        lengths = lengths[0]
    lengths = lengths.lengths if isinstance(lengths, RowNumbers) else torch.as_tensor(lengths)
    return PaddedSteps(input.transpose(0, 1) if batch_first else input, lengths.long()).packed()


def _pad(
    sequence: PackedSequence, batch_first: bool = False, padding_value: float = 0.0, total_length: int | None = None
) -> tuple[Tensor, Tensor]:
    steps: Any = sequence.batch_sizes
    padded = steps.filled(sequence.data, padding_value)
    if total_length is not None:  # otherwise that of the input, the longest there is
        rest = padded.new_full((total_length, *padded.shape[1:]), padding_value)
        padded = torch.cat([padded, rest])[:total_length]
    return padded.transpose(0, 1) if batch_first else padded, steps.lengths


def _pack_rows(*_: Any, **__: Any) -> NoReturn:
    _refuse("makes a PackedSequence of a list of rows")


def _unpack_rows(*_: Any, **__: Any) -> NoReturn:
    _refuse("makes a list of rows of unequal length")


_STAND_INS: dict[str, Callable[..., Any]] = {
    "pack_padded_sequence": _pack,
    "pad_packed_sequence": _pad,
    "pack_sequence": _pack_rows,
    "unpack_sequence": _unpack_rows,
    "unpad_sequence": _unpack_rows,
}
_redirections: dict[str, Callable[..., Any]] = {}
"""What is called in the place of each function of `rnn`, by its name."""


@contextmanager
def _redirected(name: str, stand_in: Callable[..., Any]) -> Iterator[None]:
    """Within the block, a function of `rnn` does what `stand_in` does, also for those who imported it by a name."""
    function = getattr(rnn, name)
    before, redirection = function.__code__, _redirections.get(name)
    _redirections[name], function.__code__ = stand_in, _TRAMPOLINES[name]
    try:
        yield
    finally:
        function.__code__ = before
        if redirection is not None:
            _redirections[name] = redirection


def _trampoline(name: str) -> CodeType:
    """Code that calls the redirection of `name`, wherever it runs."""
    body = f"lambda *args, **kwargs: __import__({__name__!r}, fromlist=['_']).redirect({name!r}, args, kwargs)"
    code = compile(body, __file__, "eval").co_consts[0]
    assert isinstance(code, CodeType)
    return code


def redirect(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call what stands in for a function of `rnn`."""
    return _redirections[name](*args, **kwargs)


_TRAMPOLINES = {name: _trampoline(name) for name in _STAND_INS}


def _refuse(what: str) -> NoReturn:
    """Raise `LiftingError` for what the user's code does, with its line."""
    frame: Any = sys._getframe(1)
    while frame is not None and not is_user_code(frame):
        frame = frame.f_back
    line = f" at {frame.f_code.co_filename}:{frame.f_lineno}" if frame else ""
    raise LiftingError(
        f"forward {what}{line}, which depends on the values of its inputs; keep rows padded, and pass their lengths "
        "to pack_padded_sequence as a tensor."
    )
