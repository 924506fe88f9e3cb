import os
import signal
import sys

import pytest

from lstm_deploy.artifacts.isolation import CrashError, run_isolated
from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.errors import InputError


def test_a_result_comes_back():
    assert run_isolated(TensorSpec.parse, "x:float32[batch,3]").shape == ("batch", 3)


def test_an_error_comes_back_as_itself():
    with pytest.raises(InputError, match="not an input specification"):
        run_isolated(TensorSpec.parse, "nonsense")


def test_a_crash_ends_that_process_only():
    with pytest.raises(CrashError, match=f"signal {signal.SIGSEGV.value}"):
        run_isolated(signal.raise_signal, signal.SIGSEGV)
    with pytest.raises(CrashError, match="exit code 3"):
        run_isolated(os._exit, 3)


def test_its_output_does_not_reach_standard_output(capfd):
    run_isolated(print, "noise")
    assert capfd.readouterr().out == ""


def test_a_script_without_a_main_guard_is_not_run_again(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "print('once')\nfrom lstm_deploy.artifacts.isolation import run_isolated\nfrom os import getcwd\n"
        "run_isolated(getcwd)\n"
    )
    import subprocess

    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout == "once\n"
