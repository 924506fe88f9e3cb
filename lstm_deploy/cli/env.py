"""`lstm-deploy env`: the machine and the software, for bug reports."""

from lstm_deploy.cli import console
from lstm_deploy.cli.options import JsonFlag


def env(json: JsonFlag = False) -> None:
    """Show versions, CPU, GPU and working providers, for bug reports."""
    from lstm_deploy.artifacts import environment
    from lstm_deploy.runtimes import probe_providers

    described = environment.describe()
    document = {**described, "cpu_limits": environment.cpu_limits(described["cpu"]), "providers": probe_providers()}
    if json:
        console.say_json(document)
        return
    for key, value in document.items():
        console.say(f"{key}: {console.flat(value) or 'none'}")
