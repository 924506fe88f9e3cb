"""Makes `reference.safetensors` and the bundle `reference/` beside this file: `make reference`.

A close-price forecaster, small enough to live in the repository. Tests replay its golden trace, so that a
release which reads or computes something else than the last one is noticed.
"""

import tempfile
from pathlib import Path

from lstm_deploy import export, training
from lstm_deploy.cli import demo
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
    main()
