"""Programs on another CPU than this machine's: one with AVX2 and nothing newer, emulated."""

import os
import platform
import shutil
import subprocess
import sys

import pytest

NEEDS_QEMU = pytest.mark.skipif(
    platform.machine() != "x86_64" or shutil.which("qemu-x86_64") is None,
    reason="needs qemu-x86_64 on an x86-64 machine; apt install qemu-user",
)
NOT_OF_THAT_CPU = ("OPENBLAS_CORETYPE", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")
"""What may be set here to choose among kernels of this machine's CPU."""


def on_haswell(program, *arguments):
    """What a Python program prints on an emulated Haswell; what it starts itself would not be."""
    env = {name: value for name, value in os.environ.items() if name not in NOT_OF_THAT_CPU}
    command = ["qemu-x86_64", "-cpu", "Haswell", sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env={**env, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return done.stdout
