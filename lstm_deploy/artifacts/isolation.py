"""Calling a function in a process of its own, so that a crash of a native library ends that process only."""

import io
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from lstm_deploy.errors import LstmDeployError

P = ParamSpec("P")
R = TypeVar("R")


class CrashError(LstmDeployError):
    """The process ended without an answer."""


def run_isolated(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """What `function(*args, **kwargs)` returns or raises; it must be importable, and all of it picklable.

    Raises `CrashError` where the process dies. What it prints goes to standard error.
    """
    request = pickle.dumps((function, args, kwargs))
    child = subprocess.run([sys.executable, "-m", __name__], input=request, stdout=subprocess.PIPE, check=False)
    if child.returncode:
        how = f"signal {-child.returncode}" if child.returncode < 0 else f"exit code {child.returncode}"
        raise CrashError(f"the process crashed ({how})")
    returned, result = pickle.loads(child.stdout)
    if not returned:
        raise result
    answer: R = result
    return answer


def main() -> None:
    """Answer the one request on standard input."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints goes to standard error
    function, args, kwargs = pickle.load(io.BytesIO(sys.stdin.buffer.read()))
    try:
        answer = (True, function(*args, **kwargs))
    except Exception as error:
        answer = (False, error)
    with answers:
        answers.write(pickle.dumps(answer))


if __name__ == "__main__":
    main()
