"""Compiles C artifacts with this machine's compiler, and caches the libraries by the hash of their source.

A C file is a program, and one from elsewhere may do anything. So an artifact is opened only if it was built on this
machine before: by the export that wrote it, or after the user declared it trusted.
"""

import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
from pathlib import Path

from lstm_deploy.artifacts import read_interface, scratch_folder
from lstm_deploy.contract import CInterface
from lstm_deploy.errors import InputError, one_line

COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-std=c99", "-O3", "-fPIC", "-shared")
CACHE = "LSTM_DEPLOY_CACHE"
"""Environment variable that names the folder of compiled artifacts."""
TIMEOUT_S = 600

GLUE = """\
#include "@SOURCE@"

typedef struct {
  const void *weights;
  size_t rows, steps;
  @NAME@_state *states;
  void *workspace;
  void *arrays[@ARRAYS@]; /* inputs, then outputs */
} rows_call;

/* One call for the rows of a batch, each of which lies without gaps. */
void glue_rows(rows_call *all)
{
  const size_t steps = all->steps;
  size_t r;
  (void)steps;
  for (r = 0; r < all->rows; r++)
    @NAME@_sequence(@WEIGHTS@all->states + r, @STEPS@@ARGUMENTS@@WORKSPACE@);
}

size_t glue_state_bytes(void) { return sizeof(@NAME@_state); }
size_t glue_workspace_bytes(size_t steps) { (void)steps; return @BYTES@; }
"""


def find_compiler() -> list[str]:
    """The command of the C compiler: `CC` if that is set, else the first of `COMPILERS` on `PATH`.

    Raises `InputError` where there is none.
    """
    given = os.environ.get("CC", "")
    try:
        command = shlex.split(given)
    except ValueError as error:
        raise InputError(f"CC is {given!r}, which is no command ({error}); set it to a C compiler.") from error
    if command:
        if shutil.which(command[0]) is None:
            raise InputError(f"CC is {command[0]!r}, which is not on PATH; set it to a C compiler, or unset it.")
        return command
    for name in COMPILERS:
        if shutil.which(name):
            return [name]
    raise InputError(
        "There is no C compiler on PATH (cc, gcc or clang), and C is proven by compiling it; install one, as with apt "
        "install gcc or xcode-select --install, or set CC."
    )


def is_built(path: Path) -> bool:
    """Whether an artifact was built on this machine before."""
    return _library(path).is_file()


def built_library(path: Path) -> Path:
    """The library of an artifact that was built on this machine before; raises `InputError` for any other."""
    library = _library(path)
    if not library.is_file():
        find_compiler()  # if there is none, that is the error to report
        raise InputError(
            f"{path} was not compiled on this machine, or was changed since, and a C file can do anything; read it, or "
            f"know where it is from, then run lstm-deploy validate {path.parent} --trust-c."
        )
    return library


def build(path: Path) -> None:
    """Compile an artifact that is trusted, so that it can be opened, unless that was done before.

    Raises `InputError` where there is no compiler, or it refuses the file.
    """
    library, interface = _library(path), read_interface(path)
    if library.is_file():
        return
    command = find_compiler()
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{library.parent} cannot be made for compiled C ({one_line(error)}); name another folder with {CACHE}."
        ) from error
    with scratch_folder(parent=library.parent) as folder:
        for file in (path, path.with_suffix(".h")):
            shutil.copy(file, folder)
        source, partial = folder / "glue.c", folder / "library"
        source.write_text(glue(path.name, interface), encoding="utf-8")
        arguments = [*command, *FLAGS, str(source), "-o", str(partial), "-lm"]
        try:
            result = subprocess.run(arguments, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise InputError(f"{command[0]} did not compile {path} ({one_line(error)}); set CC to another.") from error
        if result.returncode:
            lines = result.stderr.strip().splitlines() or ["no message"]
            reason = one_line(next((line for line in lines if "error" in line), lines[0]))
            raise InputError(f"{command[0]} cannot compile {path} ({reason}); export it again, or set CC to another.")
        partial.replace(library)


def cache_folder() -> Path:
    """The folder of compiled artifacts: the user's own, as what lies there is run."""
    if given := os.environ.get(CACHE):
        return Path(given).absolute()  # the loader looks for a name without a folder elsewhere
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).absolute() / "lstm-deploy"


def glue(source: str, interface: CInterface) -> str:
    """The C code that calls an artifact for the rows of a batch."""
    arguments = []
    for number, tensor in enumerate((*interface.inputs, *interface.outputs)):
        row = f" + r * {tensor.size}{' * steps' if tensor.has_time else ''}" if "batch" in tensor.spec.shape else ""
        arguments.append(f"({tensor.c_type} *)all->arrays[{number}]{row}")
    one_step = interface.mode.one_step
    words = {
        "SOURCE": source,
        "NAME": interface.name,
        "ARRAYS": str(len(arguments)),
        "WEIGHTS": "all->weights, " if interface.mapped else "",
        "STEPS": "steps, " if interface.mode.dynamic or one_step else "",
        "ARGUMENTS": ", ".join(arguments),
        "WORKSPACE": "" if one_step else ", all->workspace",
        "BYTES": "0" if one_step else interface.workspace_macro,
    }
    return re.sub(r"@([A-Z]+)@", lambda match: words[match[1]], GLUE)


def _library(path: Path) -> Path:
    """Where the compiled artifact is cached, under the hash of everything that it is made from."""
    header = path.with_suffix(".h")
    if not header.is_file():
        raise InputError(f"{header} is missing beside {path.name}; export the model again.")
    digest = hashlib.sha256("\0".join((GLUE, *FLAGS, os.environ.get("CC", ""), platform.machine())).encode())
    for file in (path, header):
        digest.update(file.read_bytes())
    return cache_folder() / f"{digest.hexdigest()}.so"
