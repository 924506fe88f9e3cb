"""Several machines that train together: how they find each other, and how Ctrl-C ends their wait for each other."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.fabric.plugins.environments import LightningEnvironment

from lstm_deploy.errors import InputError, LstmDeployError, one_line

PLACE = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")
"""Variables that say where the machines meet, and which of them this one is."""


def check_place(trainer: Any, nodes: int) -> None:
    """Raise `InputError` if nothing says where the machines meet: each would wait for the others at itself."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    missing = [name for name in PLACE if name not in os.environ]
    if nodes > 1 and missing and isinstance(environment, LightningEnvironment):  # a cluster's own says it otherwise
        raise InputError(
            f"--nodes {nodes} needs {', '.join(missing)} in the environment; set MASTER_ADDR and MASTER_PORT to an "
            f"address and a free port of the first machine, and NODE_RANK to 0 there, up to {nodes - 1} on the others."
        )


class Meeting:
    """The wait for the other machines, from `waiting` to `over`.

    It is in PyTorch's own code, which Python's handler of Ctrl-C cannot interrupt; so for so long the system's handler
    ends the process, which has written nothing yet.
    """

    def __init__(self, nodes: int) -> None:
        self.nodes = nodes
        self.handlers: dict[int, Any] = {}

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Let Ctrl-C end the wait; raises `LstmDeployError` if the machines do not find each other."""
        if self.nodes == 1 or threading.current_thread() is not threading.main_thread():
            yield
            return
        self.handlers = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        except (RuntimeError, OSError) as error:
            if not self.handlers:
                raise
            raise LstmDeployError(
                f"The {self.nodes} machines did not find each other ({one_line(error)}); check {', '.join(PLACE)} on "
                "each, and that the port can be reached."
            ) from error
        finally:
            self.over()

    def over(self) -> None:
        """All machines are there: Ctrl-C is handled as before."""
        while self.handlers:
            signal.signal(*self.handlers.popitem())
