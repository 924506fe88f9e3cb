import numpy as np
import pytest
import torch
from installations import PROJECT
from packaging.requirements import Requirement
from torch import nn

import lstm_deploy
from lstm_deploy.errors import (
    PACKAGES,
    InputError,
    LiftingError,
    MissingPackageError,
    did_you_mean,
    machine_limits,
    nearest,
    one_line,
)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError("Unable to allocate 3.64 TiB for an array"), "does not fit into memory .*use a smaller batch"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "fit into memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."), "does not fit into memory"),
        (
            RuntimeError("could not create a primitive descriptor for the LSTM forward propagation primitive."),
            "no kernel for this on this CPU .*compute in float32",
        ),
        (RuntimeError("CUDA error: no kernel image is available for execution"), "The GPU cannot do this .*driver"),
        (RuntimeError("Found no NVIDIA driver on your system."), "The GPU cannot do this"),
    ],
)
def test_a_library_error_about_the_machine_becomes_one_sentence_with_a_remedy(error, message):
    with pytest.raises(InputError, match=message) as raised, machine_limits():
        raise error
    assert raised.value.__cause__ is error


def test_a_limit_of_the_machine_is_recognized_behind_an_error_of_ours():
    def lifted():
        try:
            raise RuntimeError("could not create a primitive descriptor")
        except RuntimeError as error:
            raise LiftingError("forward fails; change it.") from error

    with pytest.raises(InputError, match="no kernel for this on this CPU"), machine_limits():
        lifted()


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("out of memory"), InputError("a; b.")])
def test_other_errors_stay_what_they_are(error):
    with pytest.raises(type(error)) as raised, machine_limits():
        raise error
    assert raised.value is error


@pytest.mark.parametrize("rows", [10**12, 10**18, 10**19])
def test_sizes_that_no_memory_has_are_refused(rows):
    with pytest.raises(InputError, match="does not fit into memory"), machine_limits():
        np.zeros((rows, 8, 8))


def test_a_batch_too_large_for_memory_is_refused(tmp_path):
    module = nn.LSTM(4, 8, batch_first=True)
    inputs = {"x": "float32[batch,seq,4]"}
    bundle = lstm_deploy.export(module, tmp_path / "net", inputs=inputs, formats=("onnx",))
    with pytest.raises(InputError, match="does not fit into memory"):
        lstm_deploy.open(bundle.path).stream(batch=10**15)  # beyond all addresses, so nothing is allocated


def test_the_packages_and_their_extras_are_those_of_the_project():
    found = {}
    extras = PROJECT["optional-dependencies"]
    for extra in ("", *(name for name in extras if name not in ("all", "dev", "docs"))):
        for each in extras[extra] if extra else PROJECT["dependencies"]:
            package = Requirement(each).name.removesuffix("-gpu")
            if package not in ("lstm-deploy", "lazy-loader", "typer"):  # without which nothing can say anything
                found[package] = f"lstm-deploy[{extra}]" if extra else "lstm-deploy"
    assert {package: requirement for package, (_, requirement) in PACKAGES.items()} == found


def test_an_import_of_a_missing_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("lstm_deploy.errors.find_spec", lambda name: None)
    error = ModuleNotFoundError("No module named 'onnxscript'", name="onnxscript")
    with (
        pytest.raises(
            MissingPackageError, match=r'^onnxscript is not installed; .*"lstm-deploy\[torch\]"\.$'
        ) as raised,
        machine_limits(),
    ):
        raise error
    assert raised.value.__cause__ is error
    assert one_line(error) == 'onnxscript is not installed; pip install "lstm-deploy[torch]"'


@pytest.mark.parametrize(
    "error", [ModuleNotFoundError("No module named 'torch.new'", name="torch.new"), ModuleNotFoundError("a", name="a")]
)
def test_other_modules_that_are_missing_are_no_matter_of_ours(error):
    with pytest.raises(ModuleNotFoundError) as raised, machine_limits():
        raise error
    assert raised.value is error


def test_messages_of_other_libraries_lose_their_colours_and_links():
    coloured = "\x1b[96mstep 3/3\x1b[0m of\n \x1b]8;;https://pytorch.org\x1b\\ the \x1b[1;31mexport\x1b[K failed"
    assert one_line(RuntimeError(coloured)) == "step 3/3 of the export failed"


def test_a_wrong_name_is_answered_with_the_nearest_and_all_others():
    assert did_you_mean("Close", ["open", "close"]) == "did you mean 'close'? Choose from open, close."
    assert did_you_mean("volume", ["open", "close"]) == "choose from open, close."
    assert did_you_mean("x", range(30)).endswith("18, 19, … (30 in all).")
    assert nearest("CLOSE", ["close"]) == "close"
    assert nearest("close", []) is None
