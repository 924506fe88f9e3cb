"""Errors that a user can act on, each with the exit code of the command line.

    LstmDeployError            1   any other failure
    ├── InputError             2   wrong usage or wrong input
    │   ├── CaptureError       2   a model that cannot be recorded as a CUDA graph
    │   └── LiftingError       2   a module whose state cannot be made explicit
    ├── ParityError            3   an artifact does not compute what the model computes
    └── ProviderError          4   the requested execution provider is not available

The command line also exits with 5 when `compare` finds a regression, and with 130 when it is interrupted.

A message is one sentence: what is wrong, then what to do.
"""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Real
from types import FrameType
from typing import ClassVar


class LstmDeployError(Exception):
    """Base of all errors that the caller can resolve; any other exception is a bug in this package."""

    exit_code: ClassVar[int] = 1


class InputError(LstmDeployError):
    """A file, an option or an argument is wrong."""

    exit_code = 2


class CaptureError(InputError):
    """A model cannot be recorded as a CUDA graph."""


class LiftingError(InputError):
    """The hidden state of this module cannot be made explicit."""


class ParityError(LstmDeployError):
    """An artifact differs from its reference by more than the tolerance."""

    exit_code = 3


class ProviderError(LstmDeployError):
    """The requested execution provider cannot be loaded on this machine."""

    exit_code = 4


def refuse_unused(reason: str, **given: object) -> None:
    """Raise `InputError` for the first of these arguments that is given: it would have no effect, for this reason.

    None, False and what is empty are not given. A reason reads as `without a reference`.
    """
    for name, value in given.items():
        if value:
            raise without_effect(name, reason)


def without_effect(name: str, reason: str) -> InputError:
    """The error for an option or argument that would have no effect."""
    remedy = f"add that, or leave {name} out" if reason.startswith("without ") else "leave it out"
    return InputError(f"{name} has no effect {reason}; {remedy}.")


def describe(given: object) -> str:
    """What was given in the place of something else, in a few words."""
    if isinstance(given, type):
        return f"the class {given.__name__}"
    return (
        repr(given) if isinstance(given, str | bytes | int | float | None) else f"an instance of {type(given).__name__}"
    )


def check_not_negative(name: str, value: object, remedy: str) -> None:
    """Raise `InputError`, with a remedy, for what is no number, and for one below 0, infinite or NaN."""
    if not isinstance(value, Real) or not 0 <= float(value) < math.inf:
        raise InputError(f"{name} is {value!r}; {remedy}.")


_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(\x07|\x1b\\)")
"""The codes for colours and links that libraries put into messages for terminals."""


def one_line(message: BaseException | str, limit: int = 300) -> str:
    """The message of another library, or of its error, on one line, cut off after `limit` characters."""
    text = " ".join(_ESCAPES.sub("", str(message)).split()) or type(message).__name__
    return text if len(text) <= limit else f"{text[:limit]}…"


_LIMITS = (
    (
        ("out of memory", "not enough memory", "allocate memory", "unable to allocate", "bad_alloc"),
        "This does not fit into memory ({}); use a smaller batch, shorter sequences or fewer units.",
    ),
    (
        ("could not create a primitive", "not implemented for 'bfloat16'", "not implemented for 'half'"),
        "PyTorch has no kernel for this on this CPU ({}); compute in float32, or on another CPU.",
    ),
    (
        ("cuda error", "cuda driver", "cudnn_status", "cublas_status", "no kernel image", "nvidia driver"),
        "The GPU cannot do this ({}); update its driver or install a PyTorch built for it, or go without it: "
        "CUDA_VISIBLE_DEVICES= in front.",
    ),
)
"""Phrases with which PyTorch, oneDNN, onnxruntime and NumPy report a limit of the machine, and our message for it."""

_NUMPY_TOO_LARGE = ("array is too big", "Maximum allowed dimension exceeded")
"""NumPy's `ValueError` for sizes that no memory could have."""


@contextmanager
def machine_limits() -> Iterator[None]:
    """Turn a library's error about this machine's memory, kernels or GPU into an `InputError` with a remedy."""
    try:
        yield
    except Exception as error:
        if (limit := _limit(error)) is None:
            raise
        raise limit from error


def _limit(error: Exception) -> InputError | None:
    """The error to raise if the cause, possibly behind an error of ours, is a limit of the machine."""
    cause = error.__cause__ if isinstance(error, LstmDeployError) else error
    from_library = type(cause).__module__.startswith("onnxruntime.")
    if isinstance(cause, ValueError) and str(cause).startswith(_NUMPY_TOO_LARGE):
        cause = MemoryError(str(cause))
    if cause is None or not (from_library or isinstance(cause, RuntimeError | MemoryError)):
        return None
    text = one_line(cause, 160)
    for phrases, message in _LIMITS:
        if any(phrase in text.lower() for phrase in phrases):
            return InputError(message.format(text))
    return InputError(_LIMITS[0][1].format(text)) if isinstance(cause, MemoryError) else None


def is_user_code(frame: FrameType) -> bool:
    """Whether a frame runs the user's own code, not that of a library that runs it."""
    module = frame.f_globals.get("__name__", "")
    return module.partition(".")[0] not in ("torch", "lstm_deploy", "onnxscript", "contextlib")


def user_line(error: BaseException) -> str:
    """`, at FILE:LINE`: the innermost line of the user's own code in a traceback; empty if there is none."""
    place = ""
    traceback = error.__traceback__
    while traceback is not None:
        if is_user_code(traceback.tb_frame):
            place = f", at {traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return place
