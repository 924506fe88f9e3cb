import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from command_line import COMMAND, run

from lstm_deploy.cli import console


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(
    ("how", "given", "resume"),
    [(signal.SIGINT, ["--force"], "--resume in place of --force"), (signal.SIGTERM, [], "--resume")],
)
def test_an_interrupted_training_keeps_the_best_so_far_and_goes_on(prices, how, given, resume, monkeypatch):
    monkeypatch.setattr(console, "QUIET_S", 0)
    words = [
        "train",
        str(prices),
        "--task",
        "forecast",
        "--target",
        "close",
        "-o",
        "m.safetensors",
        "--hidden-size",
        "4",
    ]
    endless = [*COMMAND, *words, *given, "--epochs", "100000"]
    with subprocess.Popen(endless, stderr=subprocess.PIPE, text=True) as process:
        while not Path("m.training/last.ckpt").exists():
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(how)
        err = process.stderr.read()
        assert process.wait(timeout=60) == 130
    assert "interrupted after epoch" in err
    assert f"repeat this training with {resume} to go on" in " ".join(err.split())
    assert "Traceback" not in err
    assert "m.safetensors" in os.listdir()
    done = len(Path("m.training/log.csv").read_text().splitlines()) - 1
    _, err = run(*words, "--epochs", str(done + 1), "--resume")
    assert f"epoch {done + 1}/{done + 1}" in err
    assert f"epoch {done}/{done + 1}" not in err


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_training_that_is_interrupted_at_once_leaves_nothing(prices):
    words = ["train", str(prices), "--task", "forecast", "--target", "close", "--epochs", "2", "--hidden-size", "3000"]
    with subprocess.Popen([*COMMAND, *words, "-o", "m.safetensors"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr.readline().startswith("training")
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        err = process.stderr.read()
        assert process.wait(timeout=60) == 130
    assert "interrupted: nothing was left half-written." in err
    assert not Path("m.safetensors").exists()
