"""Makes `reference.safetensors` and the bundle `reference/` beside this file: `make reference`.

With `--report` it writes the report of the bundle that is there anew, and leaves all else: `make reference-report`.

A close-price forecaster, small enough to live in the repository. Tests replay its golden trace, so that a
release which reads or computes something else than the last one is noticed.
"""

import sys
import tempfile
from pathlib import Path

from lstm_deploy import Bundle, export, training
from lstm_deploy.cli import demo
from lstm_deploy.exporters import report
from lstm_deploy.training import checkpoint, make_recipe, training_data

HERE = Path(__file__).parent
COLUMNS = ("open", "high", "low", "close")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        prices = Path(folder, "goog.csv")
        demo.write_prices(prices)
        prices_data = training_data.load_series(prices, COLUMNS, COLUMNS, "previous")
    recipe = make_recipe("forecast", hidden_size=12, epochs=10)
    trained = training.train(prices_data, recipe, lambda *_: None)
    checkpoint.save(HERE / "reference.safetensors", trained.tensors, trained.spec)
    export(HERE / "reference.safetensors", HERE / "reference", force=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["--report"]:
        report.write(Bundle(HERE / "reference"))
    else:
        main()
