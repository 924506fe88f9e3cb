"""Makes `reference.safetensors` and the bundle `reference/` beside this file: `make reference`.

A close-price forecaster, small enough to live in the repository. Tests replay its golden trace, so that a
release which reads or computes something else than the last one is noticed.
"""

import tempfile
from pathlib import Path

from lstm_deploy import checkpoint, data, demonstration, export, training

HERE = Path(__file__).parent
COLUMNS = ("open", "high", "low", "close")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        prices = Path(folder, "goog.csv")
        demonstration.write_prices(prices)
        series = data.read_series(prices, COLUMNS)
    options = training.Options(
        hidden_size=12,
        num_layers=2,
        dropout=0.0,
        epochs=10,
        batch_size=64,
        learning_rate=2e-3,
        window=20,
        seed=0,
    )
    trained = training.train_forecaster(series, COLUMNS, options, lambda *_: None)
    checkpoint.save(HERE / "reference.safetensors", trained.tensors, trained.spec)
    export(HERE / "reference.safetensors", HERE / "reference", force=True)


if __name__ == "__main__":
    main()
