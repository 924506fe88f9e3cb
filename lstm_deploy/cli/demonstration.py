"""The demo: the real commands, one after another, on data that every install has."""

import csv
from collections.abc import Callable
from pathlib import Path
from pydoc_data import topics
from shlex import join
from typing import Any, cast

from matplotlib.cbook import get_sample_data

from lstm_deploy.cli import console
from lstm_deploy.errors import LstmDeployError

RunCommand = Callable[..., object]


def show(output: Path, run_command: RunCommand) -> None:
    """Take a price forecaster and a character model from training to use, into `output`."""
    prices, text = output / "goog.csv", output / "help.txt"
    output.mkdir(parents=True, exist_ok=True)
    write_prices(prices)
    write_text(text)
    console.say("1. The daily prices of Google 2004-2008, which come with matplotlib: forecast the next close.")
    goog, words = output / "goog", output / "help"
    columns = "open,high,low,close"
    commands = [
        [
            "train",
            prices,
            "--task",
            "forecast",
            "--target",
            "close",
            "--features",
            columns,
            "-o",
            f"{goog}.safetensors",
            "--force",
        ],
        ["export", f"{goog}.safetensors", "-o", goog, "--force"],
        ["validate", goog],
        ["bench", goog],
        ["run", goog, "--input", prices, "--plot", f"{goog}-forecast.png"],
    ]
    _run_all(commands, run_command)
    console.say("\n2. Python's own help text: a model of its characters.")
    commands = [
        ["train", text, "--task", "lm", "--epochs", "6", "-o", f"{words}.safetensors", "--force"],
        ["export", f"{words}.safetensors", "-o", words, "--force"],
        ["validate", words],
        ["bench", words],
        ["run", words, "--prompt", "The for statement ", "--steps", "300", "--temperature", "0.7"],
    ]
    _run_all(commands, run_command)
    console.say(f"\nPlots: {goog}.training, {goog}-forecast.png, {words}.training.")
    console.say(f"Reports: {goog}/report.md, {words}/report.md.")
    console.say("Try next:")
    for command in (
        ["inspect", f"{goog}/model.onnx"],
        ["run", words, "--prompt", "Lists are ", "--steps", "100"],
        ["embed", words, "--lang", "web"],
        ["train", "YOUR.csv", "--task", "forecast", "--target", "COLUMN"],
    ):
        console.say(f"  {_line(command)}")


def write_prices(path: Path) -> None:
    """Google's daily open, high, low and close as CSV, with the dates."""
    prices = cast(Any, get_sample_data("goog.npz"))["price_data"]
    names = ("date", "open", "high", "low", "close")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(zip(*(prices[name].tolist() for name in names), strict=True))


def write_text(path: Path) -> None:
    """The help on Python's language, topic after topic."""
    path.write_text("\n\n".join(topics.topics.values()), encoding="utf-8")


def _run_all(commands: list[list[object]], run_command: RunCommand) -> None:
    for command in commands:
        console.say(f"\n$ {_line(command)}")
        code = run_command(*map(str, command))
        if code == console.INTERRUPTED:
            raise KeyboardInterrupt
        if code:
            raise LstmDeployError(f"{_line(command)} failed, so the demo ends here; its message is above.")


def _line(command: list[object] | list[str]) -> str:
    return join(["lstm-deploy", *map(str, command)])
