"""Small real models, made once: a forecaster of prices and a character model, with their bundles.

And what keeps the suite short without changing what it checks.
"""

import copy
import functools
import gc
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from small_models import COLUMNS, ignore, small

from lstm_deploy import export
from lstm_deploy.benchmark import runner
from lstm_deploy.cli import demo
from lstm_deploy.exporters import pipeline, report
from lstm_deploy.runtimes import c_compiler
from lstm_deploy.training import checkpoint, pipeline as training, training_data
from lstm_deploy.validation import judging, pipeline as validation
from lstm_deploy.validation.case_inputs import LOWERED, QUICK

hypothesis.settings.register_profile("deep", max_examples=500)


@pytest.fixture(scope="session", autouse=True)
def few_collections() -> Iterator[None]:
    """What was imported is not searched for garbage again and again: each export makes millions of objects."""
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def interrupts_arrive() -> None:
    """Shells have what they start in the background ignore Ctrl-C, and so does all that it starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def operators_read_once() -> Iterator[None]:
    """PyTorch's exporter makes the table of all of ONNX's operators anew for each export: a third of its time."""
    with pytest.MonkeyPatch.context() as patch:
        try:
            from torch.onnx._internal.exporter._registration import ONNXRegistry

            made = functools.cache(ONNXRegistry.from_torchlib)
        except (ImportError, AttributeError):  # another version of PyTorch, in which exports take their time
            yield
            return

        def copied(*args: Any, **options: Any) -> Any:
            registry = copy.copy(made(*args, **options))
            registry.functions = {target: [*found] for target, found in registry.functions.items()}
            return registry

        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(copied))
        yield


SHORTER = {
    # Plots of bundles are made, and written without what is in them: text takes a third of an export to draw.
    (report, "save_plot"): lambda figure, path, save=report.save_plot: (figure.clear(), save(figure, path)),
    # Proofs carry the state over fewer steps, and `validate` tries no more than an export does.
    (pipeline, "QUICK"): QUICK._replace(steps=100),
    (pipeline, "LOWERED"): LOWERED._replace(steps=1_000),
    (validation, "NORMAL"): QUICK._replace(steps=100),
    # Artifacts run in this process: another one first loads PyTorch.
    (judging, "run_isolated"): lambda function, *arguments: function(*arguments),
}
"""What takes long beside what most tests look at, and what stands in for it."""
IN_USE = {(module, name): getattr(module, name) for module, name in SHORTER}


@pytest.fixture(autouse=True)
def short(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is done as in use only in tests that are marked `whole`, and for the bundles of `session`."""
    if not request.node.get_closest_marker("whole"):
        for (module, name), shorter in SHORTER.items():
            monkeypatch.setattr(module, name, shorter)


@contextmanager
def as_in_use() -> Iterator[None]:
    """Nothing is shorter within, whichever test asks first."""
    with pytest.MonkeyPatch.context() as patch:
        for (module, name), value in IN_USE.items():
            patch.setattr(module, name, value)
        yield


@pytest.fixture(autouse=True)
def short_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benchmarks take no more rounds than they must: no test asserts a time."""
    monkeypatch.setattr(runner, "CASE_S", 0.1)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests compile is nobody else's, and what others compiled is not trusted here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(c_compiler.CACHE, str(tmp_path_factory.mktemp("compiled")))
        yield


@pytest.fixture(scope="session")
def prices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "goog.csv"
    demo.write_prices(path)
    return path


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "help.txt"
    demo.write_text(path)
    path.write_text(path.read_text(encoding="utf-8")[:30_000], encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def forecaster(prices: Path) -> Path:
    """Checkpoint that predicts all four columns, so that it can feed itself."""
    trained = training.train(training_data.load_series(prices, COLUMNS, COLUMNS, "previous"), small("forecast"), ignore)
    path = prices.with_name("forecaster.safetensors")
    checkpoint.save(path, trained.tensors, trained.spec)
    return path


@pytest.fixture(scope="session")
def language_model(text: Path) -> Path:
    trained = training.train(training_data.load_text(text), small("lm"), ignore)
    path = text.with_name("lm.safetensors")
    checkpoint.save(path, trained.tensors, trained.spec)
    return path


@pytest.fixture(scope="session")
def forecast_bundle(forecaster: Path) -> Path:
    """Shared: tests that change a bundle take `bundle_copy`."""
    with as_in_use():
        return export(forecaster, forecaster.with_name("forecast")).path


@pytest.fixture(scope="session")
def lm_bundle(language_model: Path) -> Path:
    with as_in_use():
        return export(language_model, language_model.with_name("lm")).path


@pytest.fixture
def bundle_copy(forecast_bundle: Path, forecaster: Path, tmp_path: Path) -> Path:
    """A bundle of one's own, its source beside it."""
    shutil.copy(forecaster, tmp_path)
    return Path(shutil.copytree(forecast_bundle, tmp_path / "forecast"))
