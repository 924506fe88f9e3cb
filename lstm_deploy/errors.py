"""Errors that a user can act on, each with the exit code of the command line.

    LstmDeployError                1   any other failure
    ├── InputError                 2   wrong usage or wrong input
    │   ├── CaptureError           2   a model that cannot be recorded as a CUDA graph
    │   ├── LiftingError           2   a module whose state cannot be made explicit
    │   └── MissingPackageError    2   a package that this needs is not installed
    ├── ParityError                3   an artifact does not compute what the model computes
    └── ProviderError              4   the requested execution provider is not available

The command line also exits with 5 when `compare` finds a regression, and with 130 when it is interrupted.

A message is one sentence: what is wrong, then what to do.
"""

import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
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


class CutError(LiftingError):
    """The module does something else from some size on, which a graph would leave out."""


class MissingPackageError(InputError, ImportError):
    """A package that this needs is not installed; the message says what to give pip."""


class ParityError(LstmDeployError):
    """An artifact differs from its reference by more than the tolerance."""

    exit_code = 3


class ProviderError(LstmDeployError):
    """The requested execution provider cannot be loaded on this machine."""

    exit_code = 4


PACKAGES = {
    "jinja2": ("Jinja", "lstm-deploy"),
    "msgspec": ("msgspec", "lstm-deploy"),
    "numpy": ("NumPy", "lstm-deploy"),
    "onnx": ("ONNX", "lstm-deploy"),
    "onnxruntime": ("ONNX Runtime", "lstm-deploy"),
    "pandas": ("pandas", "lstm-deploy"),
    "rich": ("Rich", "lstm-deploy"),
    "safetensors": ("safetensors", "lstm-deploy"),
    "matplotlib": ("matplotlib", "lstm-deploy[plot]"),
    "onnxscript": ("onnxscript", "lstm-deploy[torch]"),
    "torch": ("PyTorch", "lstm-deploy[torch]"),
    "lightning": ("Lightning", "lstm-deploy[train]"),
    "optuna": ("Optuna", "lstm-deploy[train]"),
    "pyarrow": ("pyarrow", "lstm-deploy[parquet]"),
    "openvino": ("OpenVINO", "lstm-deploy[openvino]"),
}
"""By imported name: what a package is called, and what brings it, as `pyproject.toml` has it."""


def why_missing(package: str) -> str:
    """That one of `PACKAGES` is not installed, and how to install it, without a full stop; empty where it is there."""
    if find_spec(package) is not None:
        return ""
    label, requirement = PACKAGES[package]
    return f'{label} is not installed; pip install "{requirement}"'


def require(package: str) -> None:
    """Raise `MissingPackageError` unless one of `PACKAGES` is installed: before work that ends in its import."""
    if reason := why_missing(package):
        raise MissingPackageError(f"{reason}.")


def _why_not_imported(error: BaseException | str) -> str:
    """`why_missing` of what an import did not find; empty for any other error."""
    if isinstance(error, ModuleNotFoundError) and error.name in PACKAGES:
        return why_missing(error.name)
    return ""


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
    text = _why_not_imported(message) or " ".join(_ESCAPES.sub("", str(message)).split()) or type(message).__name__
    return text if len(text) <= limit else f"{text[:limit]}…"


OTHER_NAMES = {"c++": "cpp", "cplusplus": "cpp", "cxx": "cpp", "golang": "go", "py": "python", "rs": "rust"}
OTHER_NAMES |= {"js": "node", "javascript": "node", "typescript": "node", "ts": "node", "browser": "web", "html": "web"}
OTHER_NAMES |= {"pt": "torchscript", "jit": "torchscript", "libtorch": "torchscript", "ort": "onnx", "c99": "c"}
"""What people call things that have other names here, and do not write alike."""
MOST_NAMES = 20
"""More names than that are not all listed in a message."""


def nearest(wrong: object, known: Iterable[object]) -> str | None:
    """The known name that a wrong one was probably meant to be, if any; case and leading dashes are ignored."""
    from difflib import get_close_matches

    by_lower_case = {str(name).lower().lstrip("-"): str(name) for name in known}
    if (other := OTHER_NAMES.get(str(wrong).lower())) in by_lower_case:
        return by_lower_case[str(other)]
    found = get_close_matches(str(wrong).lower().lstrip("-"), by_lower_case, n=1)
    return by_lower_case[found[0]] if found else None


def did_you_mean(wrong: object, known: Iterable[object]) -> str:
    """How to mend a wrong name, as the end of a message: `did you mean 'close'? Choose from open, high, low, close.`"""
    names = [str(name) for name in known]
    listed = ", ".join(names[:MOST_NAMES]) + (f", … ({len(names)} in all)" if len(names) > MOST_NAMES else "")
    near = nearest(wrong, names)
    return f"choose from {listed}." if near is None else f"did you mean {near!r}? Choose from {listed}."


def check_known(value: object, known: Iterable[object], what: str) -> None:
    """Raise `InputError` unless a value is one of those known; `what` it should be reads as `a format`."""
    names = tuple(known)  # not the hash of what may have none
    if value not in names:
        raise InputError(f"{value!r} is not {what}; {did_you_mean(value, names)}")


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
    """Turn errors about this machine (memory, kernels, GPU, a package that is missing) into ones with a remedy.

    Raises `InputError`, and for a missing package `MissingPackageError`.
    """
    try:
        yield
    except Exception as error:
        if (limit := _limit(error)) is None:
            raise
        raise limit from error


def _limit(error: Exception) -> InputError | None:
    """The error to raise if the cause, possibly behind an error of ours, is a limit of the machine."""
    if reason := _why_not_imported(error):
        return MissingPackageError(f"{reason}.")
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
