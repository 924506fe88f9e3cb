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
    versions = described["versions"]
    console.say((f"lstm-deploy {versions['lstm-deploy']}", console.HEADING), f" with Python {versions['python']}")
    console.say_fields(*((name, text) for name, text in versions.items() if name not in ("lstm-deploy", "python")))
    console.say_heading("Machine")
    cpu = {f"cpu {key}".removesuffix(" model"): value for key, value in described["cpu"].items()}
    rest = {key: value for key, value in document.items() if key not in ("versions", "providers", "cpu")}
    machine = {key.replace("_", " "): console.flat(value) for key, value in (cpu | rest).items() if value}
    console.say_fields(*machine.items())
    console.say_heading("Providers")
    console.say_fields(*((name, _loads(name, status)) for name, status in document["providers"].items()))


def _loads(name: str, status: str) -> tuple[str, str]:
    """Whether a provider loads, or why it does not, without its name, which stands beside it."""
    return status.removeprefix(f"{name} "), console.GOOD if status == "loads" else ""
