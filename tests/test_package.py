import importlib
import json
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import lstm_deploy

ROOT = Path(__file__).parents[1]

MODULES = [
    info.name for info in pkgutil.walk_packages(lstm_deploy.__path__, "lstm_deploy.") if "__main__" not in info.name
]

CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
(WITHOUT_TORCH,) = (tuple(found["source_modules"]) for found in CONTRACTS if found["type"] == "forbidden")
LIGHT = [name for name in MODULES if any(name == each or name.startswith(f"{each}.") for each in WITHOUT_TORCH)]


def imported_by(code: str) -> set[str]:
    """The heavy packages that a fresh interpreter has imported after running `code`."""
    code += "; import sys; print([name for name in ('torch', 'lightning', 'onnxscript') if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(eval(result.stdout.splitlines()[-1]))


def test_the_public_names_are_these():
    assert lstm_deploy.__all__ == [
        "BenchReport",
        "Bundle",
        "Change",
        "Check",
        "Classify",
        "Comparison",
        "Diagnosis",
        "Forecast",
        "InputError",
        "LanguageModel",
        "LiftingError",
        "LstmDeployError",
        "MissingPackageError",
        "Model",
        "Origin",
        "ParityError",
        "ParityReport",
        "Plan",
        "ProviderError",
        "RecurrentSpec",
        "Signature",
        "Slots",
        "Stream",
        "TensorSpec",
        "bench",
        "compare",
        "embed",
        "export",
        "open",
        "validate",
    ]
    assert dir(lstm_deploy) == lstm_deploy.__all__


@pytest.mark.parametrize("name", lstm_deploy.__all__)
def test_every_public_name_is_there_and_explained(name):
    assert getattr(lstm_deploy, name).__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing_like_this"):
        lstm_deploy.nothing_like_this  # noqa: B018


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_is_and_explains_what_is_public(name):
    module = importlib.import_module(name)
    assert module.__doc__
    public = [value for key, value in vars(module).items() if not key.startswith("_") and callable(value)]
    ours = [value for value in public if getattr(value, "__module__", None) == name]
    assert [value.__name__ for value in ours if not value.__doc__] == []


ALONE = """
import importlib, json, sys

class Watch:
    def find_spec(self, name, *_):
        if name in ("torch", "lightning", "onnxscript"):
            asked.append(name)
            raise AssertionError(f"{name} is imported")

asked, found = [], {}
sys.meta_path.insert(0, Watch())
for name in sys.argv[1:]:
    asked.clear()
    try:
        importlib.import_module(name)
        found[name] = [*asked]
    except BaseException as error:
        found[name] = [*asked, repr(error)]
    for ours in [each for each in sys.modules if each.partition(".")[0] == "lstm_deploy"]:
        del sys.modules[ours]
print(json.dumps(found))
"""
"""Imports one module after the other, each as if none of ours had been; the heavy packages cannot be imported."""


@pytest.fixture(scope="module")
def found_alone():
    """For each module what went wrong when it was imported alone; in one interpreter, which has the other packages."""
    words = [sys.executable, "-c", ALONE, *LIGHT]
    return json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("name", LIGHT)
def test_a_module_can_be_imported_alone_and_without_torch(name, found_alone):
    assert found_alone[name] == []


@pytest.mark.parametrize(
    "words",
    [
        ["run", "{bundle}", "--input", "{prices}"],
        ["inspect", "{bundle}/model.onnx"],
        ["inspect", "{bundle}"],
        ["embed", "{bundle}", "--lang", "node", "-o", "{prices}.c"],
        [
            "bench",
            "{bundle}",
            "--rounds",
            "9",
            "--batch",
            "1",
            "--no-roofline",
            "--no-record",
            "--baseline",
            "floor",
            "--scenario",
            "stream",
        ],
    ],
)
def test_using_a_bundle_from_the_command_line_never_imports_torch(words, forecast_bundle, prices):
    words = [word.format(bundle=forecast_bundle, prices=prices) for word in words]
    assert imported_by(f"from lstm_deploy.cli import app; app({words}, standalone_mode=False)") == set()


@pytest.mark.parametrize(
    "code", ["lstm_deploy.cli.app", "lstm_deploy.open('{bundle}').stream().step([[1.0] * 4])", "lstm_deploy.Bundle"]
)
def test_using_a_bundle_from_python_never_imports_torch(code, forecast_bundle):
    assert imported_by(f"import lstm_deploy, lstm_deploy.cli; {code.format(bundle=forecast_bundle)}") == set()


def test_every_module_without_torch_is_held_to_it():
    """A module is listed in `pyproject.toml`, or imports what is heavy."""
    heavy = re.compile(r"^ *(?:import|from) (?:torch|safetensors\.torch|lightning|onnxscript)\b", re.MULTILINE)
    others = [importlib.import_module(name).__file__ for name in MODULES if name not in LIGHT]
    modules = [Path(file) for file in others if Path(file).name != "__init__.py"]
    assert [file for file in modules if not heavy.search(file.read_text(encoding="utf-8"))] == []


def test_a_room_hands_on_what_others_use():
    """Modules of other rooms import a room, not its modules."""
    wrong = []
    for file in (ROOT / "lstm_deploy").glob("*/**/*.py"):
        room = file.relative_to(ROOT / "lstm_deploy").parts[0]
        for found in re.findall(r"^ *from lstm_deploy\.(\w+)\.[\w.]+ import", file.read_text(encoding="utf-8"), re.M):
            wrong += [f"{file} imports from inside {found}"] if found != room else []
    assert wrong == []


def test_the_files_that_the_architecture_names_exist():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z_/0-9]+/[a-z_0-9]+\.py)`", page))
    homes = (ROOT, ROOT / "lstm_deploy", ROOT / "lstm_deploy" / "exporters")
    assert len(named) > 20
    assert [name for name in named if not any((home / name).is_file() for home in homes)] == []


def test_an_installation_has_the_templates_of_clients():
    data = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["package-data"]
    home = ROOT / "lstm_deploy" / "embedding"
    included = {path for pattern in data["lstm_deploy.embedding"] for path in home.glob(pattern)}
    assert {path for path in (home / "templates").rglob("*") if path.is_file()} == included
