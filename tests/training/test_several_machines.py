import os
import signal
import socket
import subprocess
import time

import pytest
from command_line import COMMAND
from small_models import ignore, sine, small

from lstm_deploy.errors import InputError
from lstm_deploy.training import pipeline


def test_machines_that_cannot_find_each_other_are_told_what_they_need(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    for name in ("MASTER_PORT", "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="--nodes 2 needs MASTER_PORT, NODE_RANK in the environment; set"):
        pipeline.train(sine(), small("forecast", nodes=2), ignore)


@pytest.fixture
def unused_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def wait_for(port, process):
    """Until the first machine listens."""
    while process.poll() is None:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError(process.stderr.read())


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_ends_the_wait_for_other_machines(tmp_path, unused_port):
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(unused_port), "NODE_RANK": "0"}
    words = ["train", "--data", "sine", "--task", "forecast", "--nodes", "2"]
    with subprocess.Popen(
        [*COMMAND, *words], stderr=subprocess.PIPE, text=True, env={**os.environ, **place}, cwd=tmp_path
    ) as process:
        wait_for(unused_port, process)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait(timeout=60) in (-signal.SIGINT, 130)
    assert "waiting until all 2 machines have started this command; Ctrl-C ends the wait." in said
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())
