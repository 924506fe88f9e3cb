"""Clients that need no more than Python and a C compiler; `test_clients` has the others."""

import re

import numpy as np
import pytest
import torch
from c_programs import NEEDS_CC
from clients import Client, retrain
from command_line import run
from feeding import feeders
from msgspec.structs import replace

import lstm_deploy
from lstm_deploy.artifacts.bundle import GOLDEN, Bundle
from lstm_deploy.artifacts.files import sha256
from lstm_deploy.cli import predictions
from lstm_deploy.embedding import LANGUAGES, generate
from lstm_deploy.errors import InputError
from lstm_deploy.training.data.series import read_series


@pytest.fixture(scope="module")
def c_bundle(tmp_path_factory):
    """A forecaster that feeds itself, in ONNX and C."""
    feeder = feeders()["carried"]
    path = tmp_path_factory.mktemp("carried") / "b"
    lstm_deploy.export(
        feeder.module, path, inputs=feeder.inputs, task=feeder.task, state_policy="carry", formats=("onnx", "c")
    )
    return path


@pytest.mark.parametrize("name", ["forecast_bundle", "lm_bundle"])
def test_a_python_client_replays_the_golden_trace(name, request, tmp_path):
    said, passed = Client("python", request.getfixturevalue(name), tmp_path / "c").replay()
    assert passed
    assert said == "13 calls replayed, 0 outputs differ\n"


HALF_RESET = """        if batch == getattr(self, "batch", None):
            return
        self.batch = batch or self.batch
"""
PYTHON_SABOTAGE = {
    "lost": ("        self._state = dict(zip(STATE, found[len(OUTPUTS) :]))\n", ""),
    "swapped": ("STATE, found[len(OUTPUTS) :]", "STATE, found[: len(OUTPUTS) - 1 : -1]"),
    "not reset": ("        self.batch = batch or self.batch\n", HALF_RESET),
    "not restored": ("        self._state = {name: np.array(", "        {name: np.array("),
    "one row apart": (
        "        after = [name for",
        "        self.batch == 1 and self.reset()\n        after = [name for",
    ),
    "saved as zeros": ("return {name: value.copy() for", "return {name: np.zeros_like(value) for"),
}


@pytest.mark.parametrize("how", PYTHON_SABOTAGE)
@pytest.mark.parametrize("name", ["forecast_bundle", "lm_bundle"])
def test_a_python_client_that_handles_its_state_wrongly_fails(name, how, request, tmp_path):
    client = Client("python", request.getfixturevalue(name), tmp_path / "c")
    client.change("client.py", PYTHON_SABOTAGE[how])
    said, passed = client.replay()
    assert not passed
    assert re.search(r"call \d+: \w+ is off by \d", said)


def test_a_saved_state_that_changes_with_the_model_fails(forecast_bundle, tmp_path):
    client = Client("python", forecast_bundle, tmp_path / "c")
    client.change(
        "client.py",
        ("return {name: value.copy() for name, value in self._state.items()}", "return dict(self._state)"),
        (
            "        self._state = {}\n",
            "        [v.fill(0) for v in getattr(self, '_state', {}).values()]\n        self._state = {}\n",
        ),
    )
    assert not client.replay()[1]


@pytest.mark.parametrize("lacking", ["^output.*\n", "^end.*\n", "^output y.*\n", "^call.*\n"])
def test_a_trace_that_is_not_whole_proves_nothing(forecast_bundle, lacking, tmp_path):
    client = Client("python", forecast_bundle, tmp_path / "c")
    golden = tmp_path / "c" / "golden.txt"
    text = golden.read_text(encoding="utf-8")
    golden.write_text(re.sub(lacking, "", text, flags=re.MULTILINE), encoding="utf-8")
    assert "is not whole" in client.run("replay", code=2) or lacking.startswith("^call")


@NEEDS_CC
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("^output.*\n", ""), "is not whole"),
        (("^output y .*", "output y 0"), "has 8 numbers, not 0"),
        (("\nend.*", ""), "is not whole"),
    ],
)
def test_a_trace_that_is_not_whole_proves_nothing_in_c(c_bundle, change, said, tmp_path):
    client = Client("c", c_bundle, tmp_path / "c").build()
    golden = tmp_path / "c" / "golden.txt"
    text = golden.read_text(encoding="utf-8")
    golden.write_text(re.sub(*change, text, flags=re.MULTILINE), encoding="utf-8")
    done = client.call("./client", "replay", code=None)
    assert done.returncode != 0
    assert said in done.stdout + done.stderr


@NEEDS_CC
@pytest.mark.parametrize("content", [b"\0\0\na,b\n", b"a,b\n1,nan\n", b"a,b\n1,2x\n", b"", b"a\n1\n", b"a,b\n\0\n"])
def test_a_c_client_refuses_what_is_no_table(c_bundle, content, tmp_path):
    client = Client("c", c_bundle, tmp_path / "c").build()
    (tmp_path / "s.csv").write_bytes(content + b"1,2\n" * 3)
    assert client.run("run", str(tmp_path / "s.csv"), code=2).startswith("error: ")
    assert client.run("run", str(tmp_path), code=2).startswith("error: ")


def test_a_strangers_file_names_are_refused(bundle_copy, tmp_path):
    """A copy called numpy.py would be imported, and binding.gyp be built."""
    bundle = Bundle(bundle_copy)
    (bundle_copy / "numpy.py").write_text("print('mine')", encoding="utf-8")
    artifacts = [
        replace(each, weights="numpy.py", weights_sha256=sha256(bundle_copy / "numpy.py"))
        for each in bundle.manifest.artifacts
    ]
    bundle.update(artifacts=tuple(artifacts))
    with pytest.raises(InputError, match=r"names 'numpy.py', no file of an export; do not use it"):
        generate.embed(bundle_copy, tmp_path / "c", "python")


def test_a_python_client_of_another_model_fails(tmp_path, forecast_bundle, lm_bundle):
    client = Client("python", forecast_bundle, tmp_path / "c")
    retrain(tmp_path / "c" / "model.onnx")
    said, passed = client.replay()
    assert not passed
    assert re.search(r"call 1: \w+ is off by", said)
    said = client.run("replay", str(lm_bundle / "model.onnx"), code=2)
    assert re.search(r"error: x of .*model.onnx is \['batch', 'seq'\]: it is not the model of this client", said)


def test_a_python_client_forecasts_what_run_forecasts(forecast_bundle, prices, tmp_path):
    out = Client("python", forecast_bundle, tmp_path / "c").run("run", str(prices), "5")
    heading, *rows = out.splitlines()
    model = lstm_deploy.open(forecast_bundle)
    task = model.signature.task
    assert heading == ",".join(task.targets)
    wanted = predictions.forecast(model, task, read_series(prices, task.features), 5)
    np.testing.assert_allclose([[float(cell) for cell in row.split(",")] for row in rows], wanted, rtol=1e-5)


def test_a_python_client_generates_what_run_generates(lm_bundle, tmp_path):
    model = lstm_deploy.open(lm_bundle)
    wanted = predictions.generate(model, model.signature.task, ["The "], 80)
    assert Client("python", lm_bundle, tmp_path / "c").run("run", "The ", "80") == f"The {wanted[0]}\n"


@NEEDS_CC
def test_a_c_client_replays_and_forecasts(c_bundle, tmp_path):
    client = Client("c", c_bundle, tmp_path / "c").build()
    assert client.replay() == ("17 calls replayed, 0 outputs differ\n", True)
    (tmp_path / "s.csv").write_text("day,a,b\n1,0.5,1\n2,,2\n" + "3,0.25,-1\n" * 6, encoding="utf-8")
    model = lstm_deploy.open(c_bundle)
    rows = np.array([[0.5, 1], [0.5, 2], *[[0.25, -1]] * 6], np.float32)[None]
    wanted = model.rollout({"x": rows, "steps": np.array(4)}, runtime="onnx")["y"][0]
    out = client.run("run", str(tmp_path / "s.csv"), "4").splitlines()
    np.testing.assert_allclose([[float(cell) for cell in row.split(",")] for row in out[1:]], wanted, rtol=1e-4)


@NEEDS_CC
@pytest.mark.parametrize("how", ["lost", "swapped"])
def test_a_c_client_that_handles_its_state_wrongly_fails(c_bundle, how, tmp_path):
    client = Client("c", c_bundle, tmp_path / "c")
    call = re.search(r"  b_sequence\(.*;\n", (tmp_path / "c" / "main.c").read_text(encoding="utf-8"))[0]
    wrong = {
        "lost": f"  const b_state before = *state;\n{call}  *state = before;\n",
        "swapped": call + "  { b_state was = *state; memcpy(state->h, was.c, sizeof was.h);"
        " memcpy(state->c, was.h, sizeof was.h); }\n",
    }
    client.change("main.c", (call, wrong[how]))
    said, passed = client.build().replay()
    assert not passed
    assert "is off by" in said


def test_the_trace_of_a_changed_bundle_is_refused(bundle_copy):
    (bundle_copy / GOLDEN).write_bytes(b"else")
    with pytest.raises(InputError, match=r"missing or changed since the export"):
        generate.embed(bundle_copy, bundle_copy.parent / "c", "python")


def test_a_changed_artifact_is_refused(bundle_copy, tmp_path):
    (bundle_copy / "model.onnx").write_bytes(b"else")
    with pytest.raises(InputError, match=r"model.onnx of .* was changed since its export"):
        generate.embed(bundle_copy, tmp_path / "c", "python")
    assert not (tmp_path / "c").exists()


def test_what_has_failed_validation_is_refused(bundle_copy, tmp_path):
    bundle = Bundle(bundle_copy)
    parity = bundle.manifest.parity
    first, *others = parity.checks
    assert first.artifact == "model.onnx"
    bundle.update(parity=replace(parity, passed=False, checks=(replace(first, passed=False), *others)))
    with pytest.raises(InputError, match=r"model\.onnx of .* has failed validation; run lstm-deploy validate"):
        generate.embed(bundle_copy, tmp_path / "c", "python")
    bundle.update(parity=replace(parity, checks=tuple(c for c in parity.checks if c.artifact != "model.onnx")))
    with pytest.raises(InputError, match=r"model\.onnx of .* has not been validated on cpu; run lstm-deploy validate"):
        generate.embed(bundle_copy, tmp_path / "c", "cpp")
    assert not (tmp_path / "c").exists()


@NEEDS_CC
def test_the_remedy_for_a_missing_format_keeps_the_others(bundle_copy, tmp_path):
    with pytest.raises(InputError) as refused:
        generate.embed(bundle_copy, tmp_path / "c", "c")
    words = re.search(r"--format \S+ --force", str(refused.value))[0].split()
    run("export", bundle_copy.with_name("forecaster.safetensors"), "-o", bundle_copy, *words)
    for language in LANGUAGES:
        assert generate.embed(bundle_copy, tmp_path / language, language)


def test_c_is_not_promised_where_the_contract_rules_it_out(tmp_path):
    network = torch.nn.LSTM(2, 3, batch_first=True)
    lstm_deploy.export(network, tmp_path / "b", inputs={"x": "float32[4,seq,2]"}, formats=("onnx",))
    with pytest.raises(InputError, match=r"C cannot hold this model, as the model fixes its batch size") as refused:
        generate.embed(tmp_path / "b", tmp_path / "c", "rust")
    assert "--format" not in str(refused.value)


def test_an_int8_that_export_left_out_is_refused_with_the_reason_and_a_way_that_works(bundle_copy, tmp_path):
    Bundle(bundle_copy).update(notes=("int8 is left out: even at best, y is off by 3",))
    with pytest.raises(InputError, match=r"int8 \(int8 is left out: even.*\); use --precision float32\."):
        generate.embed(bundle_copy, tmp_path / "c", "python", precision="int8")
    assert generate.embed(bundle_copy, tmp_path / "c", "python", precision="float32")


@pytest.mark.parametrize(
    ("language", "precision", "said"),
    [
        ("cobol", "float32", r"no client in 'cobol'; choose from python, node, web, cpp, c"),
        ("python", "float16", r"no client in 'float16'; did you mean 'float32'"),
        ("python", "int8", r"no onnx artifact in int8 .*--format onnx,torchscript --quantize int8 --force\."),
        ("c", "float32", r"no c artifact .*; export the model again with --format onnx,torchscript,c --force,"),
    ],
)
def test_what_there_is_not_is_said(forecast_bundle, language, precision, said, tmp_path):
    with pytest.raises(InputError, match=said):
        generate.embed(forecast_bundle, tmp_path / "c", language, precision=precision)
    assert list(tmp_path.iterdir()) == []


def test_files_are_replaced_with_force_alone_and_others_stay(forecast_bundle, tmp_path):
    written = generate.embed(forecast_bundle, tmp_path / "c", "python")
    (tmp_path / "c" / "mine.py").write_text("mine", encoding="utf-8")
    (tmp_path / "c" / "model.onnx").write_text("changed", encoding="utf-8")
    with pytest.raises(InputError, match=r"already exists; replace it with --force"):
        generate.embed(forecast_bundle, tmp_path / "c", "python")
    assert (tmp_path / "c" / "model.onnx").read_text(encoding="utf-8") == "changed"
    generate.embed(forecast_bundle, tmp_path / "c", "python", force=True)
    assert (tmp_path / "c" / "model.onnx").read_bytes() == (forecast_bundle / "model.onnx").read_bytes()
    assert {file.name for file in (tmp_path / "c").iterdir()} == {*written, "mine.py"}
    with pytest.raises(InputError, match=r"not a directory"):
        generate.embed(forecast_bundle, tmp_path / "c" / "mine.py", "python")


def test_dimensions_that_a_client_cannot_tell_are_refused(tmp_path):
    class Joined(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = torch.nn.LSTM(2, 3, batch_first=True)

        def forward(self, x, more):
            return self.lstm(x)[0].mean(-1, keepdim=True).mean(1) + more.mean(-1, keepdim=True)

    lstm_deploy.export(
        Joined(), tmp_path / "b", inputs={"x": "float32[batch,seq,2]", "more": "float32[batch,many]"}, formats=("onnx",)
    )
    with pytest.raises(InputError, match=r"more has the size 'many' beside batch and seq"):
        generate.embed(tmp_path / "b", tmp_path / "c", "python")
