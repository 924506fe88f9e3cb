"""Calling a function in a subprocess, so that a crash in a native library ends only that."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

from lstm_deploy.errors import LstmDeployError

P = ParamSpec("P")
R = TypeVar("R")


class CrashError(LstmDeployError):
    """The subprocess died before it returned a result."""


def run_isolated(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Return or raise what `function(*args, **kwargs)` does in a subprocess; all must be importable and picklable.

    Raises `CrashError` if the subprocess dies. Its output goes to standard error.
    """
    request = pickle.dumps((function, args, kwargs))
    child = subprocess.run([sys.executable, "-m", __name__], input=request, stdout=subprocess.PIPE, check=False)
    if child.returncode:
        how = f"signal {-child.returncode}" if child.returncode < 0 else f"exit code {child.returncode}"
        raise CrashError(f"the process crashed ({how})")
    returned, result = pickle.loads(child.stdout)
    if not returned:
        raise result
    return cast(R, result)


def main() -> None:
    """In the subprocess: serve the one request on standard input."""
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print goes to standard error
    function, args, kwargs = pickle.loads(sys.stdin.buffer.read())
    try:
        answer = (True, function(*args, **kwargs))
    except Exception as error:
        answer = (False, error)
    with output:
        output.write(pickle.dumps(answer))


if __name__ == "__main__":
    main()
