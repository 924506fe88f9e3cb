"""`lstm-deploy demo`: the real commands, one after another, on data that every install has."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from lstm_deploy.cli import console
from lstm_deploy.cli.options import Panel, option
from lstm_deploy.errors import LstmDeployError, require

OutputOption = Annotated[
    Path, option(Panel.OUTPUT, "-o", "--output", metavar="FOLDER", help="Folder for all that is written.")
]


def demo(
    context: typer.Context,
    output: OutputOption = Path("exported/demo"),
) -> None:
    """Go from data to a model in use, twice, in a few minutes.

    Trains, exports, validates, measures and runs a forecaster of prices and a model of text, with the commands that you
    would type. The data is part of the installation.
    """
    application = context.find_root().command
    show(output, lambda *words: application.main(list(words), prog_name="lstm-deploy", standalone_mode=False))


def show(output: Path, run_command: Callable[..., object]) -> None:
    """Take a price forecaster and a character model from training to use, into `output`."""
    require("lightning")  # whose extra has all that is shown
    prices, text, goog, words = (output / name for name in ("goog.csv", "help.txt", "goog", "help"))
    output.mkdir(parents=True, exist_ok=True)
    write_prices(prices)
    write_text(text)
    console.say(
        ("1. The daily prices of Google, 2004 to 2008, from matplotlib: forecast the next close.", console.HEADING)
    )
    options = ["--task", "forecast", "--target", "close", "--features", "open,high,low,close"]
    use = ["--input", prices, "--plot", f"{goog}-forecast.png"]
    _train_to_use(prices, options, goog, use, run_command)
    console.say()
    console.say(("2. Python's own help text: a model of its characters.", console.HEADING))
    options = ["--task", "lm", "--epochs", "6"]
    use = ["--prompt", "The for statement ", "--steps", "300", "--temperature", "0.7"]
    _train_to_use(text, options, words, use, run_command)
    console.say_heading("Made")
    console.say_fields(
        ("plots", f"{goog}.training/, {goog}-forecast.png, {words}.training/"),
        ("reports", f"{goog}/report.md, {words}/report.md"),
        ("bundles", f"{goog}, {words}"),
    )
    console.say_next(
        ["run", words, "--prompt", "Lists are ", "--steps", "100"],
        ["inspect", goog / "model.onnx"],
        ["embed", words, "--lang", "web", "-o", f"{words}-web", "--force"],
        ["train", "--help"],
    )


def write_prices(path: Path) -> None:
    """Google's daily open, high, low and close as CSV, with the dates."""
    from matplotlib.cbook import get_sample_data

    prices = cast(Any, get_sample_data("goog.npz"))["price_data"]
    names = ("date", "open", "high", "low", "close")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(zip(*(prices[name].tolist() for name in names), strict=True))


def write_text(path: Path) -> None:
    """The help on Python's language, topic after topic."""
    from pydoc_data import topics

    path.write_text("\n\n".join(topics.topics.values()), encoding="utf-8")


def _train_to_use(
    data: Path, options: list[str], bundle: Path, use: list[object], run_command: Callable[..., object]
) -> None:
    """Run the five commands that lead from data to a bundle in use."""
    checkpoint = f"{bundle}.safetensors"
    for command in (
        ["train", data, *options, "-o", checkpoint, "--force"],
        ["export", checkpoint, "-o", bundle, "--force"],
        ["validate", bundle],
        ["bench", bundle, "--scope", "end_to_end", "--batch", "1"],
        ["run", bundle, *use],
    ):
        line = console.command_line(command)
        console.say_command(line)
        code = run_command(*map(str, command))
        if code == console.INTERRUPTED:
            raise KeyboardInterrupt
        if code:
            raise LstmDeployError(f"{line} failed, so the demo ends here; its message is above.")
