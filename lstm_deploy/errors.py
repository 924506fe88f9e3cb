"""Errors a user can act on, each with the exit code of the command line.

    LstmDeployError            1   it failed
    ├── InputError             2   wrong usage or wrong input
    │   └── LiftingError       2   a module whose state cannot be made explicit
    ├── ParityError            3   an artifact does not compute what the model computes
    └── ProviderError          4   the execution provider asked for is not there

The command line also ends with 5 where `compare` finds a regression, and with 130 when it is interrupted.

A message is one sentence: what is wrong, then what to do.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar


class LstmDeployError(Exception):
    """Base of all errors that are the caller's to solve; anything else is a defect of this package."""

    exit_code: ClassVar[int] = 1


class InputError(LstmDeployError):
    """A file, an option or an argument is wrong."""

    exit_code = 2


class LiftingError(InputError):
    """The hidden state of this module cannot be made explicit."""


class ParityError(LstmDeployError):
    """An artifact differs from its reference by more than the tolerance."""

    exit_code = 3


class ProviderError(LstmDeployError):
    """The execution provider that was asked for cannot be loaded here."""

    exit_code = 4


def one_line(error: BaseException, limit: int = 300) -> str:
    """What another library's error says, fit for a sentence: on one line and not endless."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else f"{text[:limit]}…"


MEMORY = ("out of memory", "not enough memory", "allocate memory", "unable to allocate", "bad_alloc")
KERNELS = ("could not create a primitive", "not implemented for 'bfloat16'", "not implemented for 'half'")
GPU = ("cuda error", "cuda driver", "cudnn_status", "cublas_status", "no kernel image", "nvidia driver")
"""What PyTorch, oneDNN, onnxruntime and numpy say, in lower case, where a machine cannot do what it is asked for."""


@contextmanager
def machine_limits() -> Iterator[None]:
    """Raise what a library reports of this machine (its memory, its kernels, its GPU) as `InputError` with a remedy."""
    try:
        yield
    except Exception as error:
        if (limit := _limit(error)) is None:
            raise
        raise limit from error


def _limit(error: Exception) -> InputError | None:
    """What to say where an error, or a library's error behind one of ours, comes from the machine alone."""
    cause = error.__cause__ if isinstance(error, LstmDeployError) else error
    if cause is None:
        return None
    if not (isinstance(cause, RuntimeError | MemoryError) or type(cause).__module__.startswith("onnxruntime.")):
        return None
    said = one_line(cause, 160)
    words = said.lower()
    if isinstance(error, MemoryError) or any(word in words for word in MEMORY):
        return InputError(
            f"This does not fit into memory ({said}); use a smaller batch, shorter sequences or fewer units."
        )
    if any(word in words for word in KERNELS):
        return InputError(
            f"PyTorch has no kernel for this on this CPU ({said}); compute in float32, or on another CPU."
        )
    if any(word in words for word in GPU):
        remedy = "update its driver or install a PyTorch built for it, or go without it: CUDA_VISIBLE_DEVICES= in front"
        return InputError(f"The GPU cannot do this ({said}); {remedy}.")
    return None


def user_line(error: BaseException) -> str:
    """`, at FILE:LINE` of the user's code where an error came from, if it came from any."""
    place = ""
    traceback = error.__traceback__
    while traceback is not None:
        module = traceback.tb_frame.f_globals.get("__name__", "")
        if module.partition(".")[0] not in ("torch", "lstm_deploy", "onnxscript", "contextlib"):
            place = f", at {traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return place
