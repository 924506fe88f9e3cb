"""Clients in every language, built and run with its own tools: a forecaster of prices and a model of characters.

They are of the sizes of real ones (LSTM(4, 32, 2 layers) and LSTM(V, 128, 2 layers)), trained for a moment.
`make test-embed` installs what they need; a test that lacks something says what.
"""

import re
import shutil
import subprocess
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from clients import NODE, ROOT, TARGETS, Client, alone, format_of, language_of, need, once
from feeding import Feeder, OneHotText, feeders
from modules import Seq2Seq, StepCell
from small_models import COLUMNS, ignore

import lstm_deploy
from lstm_deploy.cli import predictions
from lstm_deploy.contract.tasks import BYTES, Classify, Forecast, LanguageModel
from lstm_deploy.exporters import pipeline, report
from lstm_deploy.runtimes import c_compiler
from lstm_deploy.training import checkpoint, pipeline as training, training_data
from lstm_deploy.training.data.series import read_series
from lstm_deploy.training.recipe import make_recipe
from lstm_deploy.validation.case_inputs import QUICK

FORMATS = ("onnx", "torchscript", "c")
RUNTIMES = {"onnx": "onnx", "torchscript": "torchscript", "c": "native"}
MODELS = ("prices", "characters")
PRECISIONS = ("float32", "int8")


@pytest.fixture(scope="module", autouse=True)
def plain_bundles(tmp_path_factory):
    """Bundles are the raw material here: a short proof will do, and nobody reads the plots of their reports.

    What one process compiled of them, the other trusts.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "LOWERED", QUICK._replace(steps=100))
        patch.setattr(pipeline, "QUICK", QUICK._replace(steps=100))
        patch.setattr(report, "write", ignore)
        patch.setenv(c_compiler.CACHE, str(once(tmp_path_factory, "compiled", ignore)))
        yield


@pytest.fixture(scope="module")
def bundles(tmp_path_factory, prices, text):
    """By name, and with `other` the same networks from another seed; each in every format, float32 and int8."""

    def exported(name, seed=0):
        def make(folder):
            if name == "prices":
                learned = training_data.load_series(prices, COLUMNS, ("close",), "previous")
                sizes = {"hidden_size": 32, "window": 20, "epochs": 5}
            else:
                learned = training_data.load_text(text)
                sizes = {"hidden_size": 128, "window": 50, "epochs": 1}
            task = "forecast" if name == "prices" else "lm"
            recipe = make_recipe(task, num_layers=2, batch_size=64, learning_rate=5e-3, seed=seed, **sizes)
            trained = training.train(learned, recipe, ignore)
            path = folder / "checkpoint.safetensors"
            checkpoint.save(path, trained.tensors, trained.spec)
            # The name of the bundle is that of the functions in C.
            lstm_deploy.export(path, folder / name, formats=FORMATS, quantize="int8", max_metric_loss=0.5)

        return once(tmp_path_factory, f"{name}{seed}", make) / name

    return exported


@pytest.fixture
def built(bundles, tmp_path_factory):
    """Clients, built once for all processes; each is one test's alone as long as that takes."""
    with ExitStack() as held:

        def client(target, name, precision):
            def make(folder):
                Client(target, bundles(name), folder / "client", precision, tmp_path_factory).build()

            folder = once(tmp_path_factory, f"client-{target}-{name}-{precision}", make)
            held.enter_context(alone(folder))
            return Client(target, bundles(name), folder / "client", precision, tmp_path_factory)

        yield client


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", MODELS)
def test_a_client_replays_the_golden_trace(built, name, precision, target):
    said, passed = built(target, name, precision).replay()
    assert passed, said
    assert re.search(r"^\d+ calls replayed, 0 outputs differ", said)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_client_forecasts_what_run_forecasts(built, bundles, prices, precision, target):
    client, model = built(target, "prices", precision), lstm_deploy.open(bundles("prices"))
    where = {"precision": precision, "runtime": RUNTIMES[format_of(target)]}
    wanted = predictions.forecast(model, model.signature.task, read_series(prices, COLUMNS), 1, where)[0, 0]
    if target == "web":
        seen = client.browse("--file", str(prices))
        assert seen["error"] == ""
        assert re.fullmatch(r"[\d.]+ µs a step", seen["latency"])
        said = seen["result"].removeprefix("next close: ")
    else:
        heading, said = client.run("run", str(prices)).splitlines()
        assert heading == "close"
    assert float(said) == pytest.approx(wanted, rel=1e-3 if precision == "int8" else 1e-5)


@pytest.mark.parametrize("target", TARGETS)
def test_a_client_generates_what_run_generates(built, bundles, target):
    client, model = built(target, "characters", "float32"), lstm_deploy.open(bundles("characters"))
    wanted = "The " + predictions.generate(model, model.signature.task, ["The "], 60)[0]
    if target == "web":
        assert client.browse("--prompt", "The ")["result"] == wanted
    else:
        assert client.run("run", "The ", "60") == wanted + "\n"
        drawn = client.run("run", "The ", "60", "0.9")
        assert drawn.startswith("The ")
        assert len(drawn) == len("The ") + 60 + 1


NEXT = "    for (const { name, out } of STATE) this.#state[name] = found[out];\n"
LOST = {
    "node": ("client.mjs", NEXT, ""),
    "cpp-torch": ("session_torch.cpp", "    state.h = numbers<float>(found.at(1));  // h_out\n", ""),
    "cpp-onnx": ("session_onnx.cpp", "    state.h = numbers<float>(found.at(1));  // h_out\n", ""),
    "python": ("client.py", "        self._state = dict(zip(STATE, found[len(OUTPUTS) :]))\n", ""),
    "go": ("client.go", "\treturn out, nil\n}", "\tm.Reset()\n\treturn out, nil\n}"),
    "rust": ("client.rs", "        Ok(outputs)\n", "        self.reset();\n        Ok(outputs)\n"),
}
SWAPPED = {
    "node": (
        "client.mjs",
        NEXT,
        "    STATE.forEach(({ name }, at) => (this.#state[name] = found[STATE.at(-1 - at).out]));\n",
    ),
    "cpp-torch": ("session_torch.cpp", "found.at(1));  // h_out", "found.at(2));"),
    "cpp-onnx": ("session_onnx.cpp", "found.at(1));  // h_out", "found.at(2));"),
    "python": ("client.py", "STATE, found[len(OUTPUTS) :]", "STATE, found[: len(OUTPUTS) - 1 : -1]"),
    "go": ("client.go", "\treturn out, nil\n}", "\tm.State.h, m.State.c = m.State.c, m.State.h\n\treturn out, nil\n}"),
    "rust": (
        "client.rs",
        "        Ok(outputs)\n",
        "        std::mem::swap(&mut self.state.h, &mut self.state.c);\n        Ok(outputs)\n",
    ),
}
CALL = "{name}_sequence(state, steps, x, y);\n"
IN_C = {
    "lost": CALL + "  {name}_init(state);\n",
    "swapped": CALL
    + "  {{ {name}_state was = *state; memcpy(state->h, was.c, sizeof was.h);\n"
    + "    memcpy(state->c, was.h, sizeof was.h); }}\n",
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("how", ["lost", "swapped", "another model"])
def test_a_client_that_is_wrong_fails_its_replay(built, bundles, how, name, precision, target):
    client = built(target, name, precision)
    with as_it_was(client.folder):
        if how == "another model":
            for file in bundles(name, seed=1).glob("model*"):
                if (client.folder / file.name).exists():
                    shutil.copy(file, client.folder)
        elif target == "c":
            prefix = f"{name}_int8" if precision == "int8" else name
            client.change("main.c", (CALL.format(name=prefix), IN_C[how].format(name=prefix)))
        else:
            changes = LOST if how == "lost" else SWAPPED
            file, old, new = changes["node" if target == "web" else target]
            client.change(file, (old, new))
        said, passed = client.build().replay()
    assert not passed
    assert re.search(r"call \d+: \w+ is off by", said)


@contextmanager
def as_it_was(folder):
    """Put a folder back afterwards, what was built in it too, so that nothing of it has to be built again."""
    kept = folder.with_name("kept")
    shutil.copytree(folder, kept, symlinks=True)
    try:
        yield
    finally:
        shutil.rmtree(folder)
        kept.rename(folder)


class Labels(torch.nn.Module):
    """Tokens through an LSTM in both directions, its maximum over time as logits."""

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(9, 5)
        self.lstm = torch.nn.LSTM(5, 6, bidirectional=True, batch_first=True)
        self.fc = torch.nn.Linear(12, 3)

    def forward(self, x):
        return 5 * self.fc(self.lstm(self.embedding(x))[0].max(1).values)


class Ahead(torch.nn.Module):
    """Three columns in, the next three steps of two of them out."""

    def __init__(self):
        super().__init__()
        self.lstm = torch.nn.LSTM(3, 6, batch_first=True)
        self.fc = torch.nn.Linear(6, 6)

    def forward(self, x):
        return self.fc(self.lstm(x)[0])[:, -1]


class Cells(torch.nn.Module):
    """Every kind of cell, one after the other."""

    def __init__(self):
        super().__init__()
        self.gru = torch.nn.GRU(3, 5, 2, batch_first=True)
        self.rnn = torch.nn.RNN(5, 4, batch_first=True)
        self.relu = torch.nn.RNN(4, 4, nonlinearity="relu", batch_first=True)
        self.lstm = torch.nn.LSTM(4, 3, batch_first=True)

    def forward(self, x):
        for layers in (self.gru, self.rnn, self.relu, self.lstm):
            x, _ = layers(x)
        return x


class Kinds(torch.nn.Module):
    """Inputs whose names mean something else in many languages, numbers of several kinds, two outputs."""

    def __init__(self):
        super().__init__()
        self.lstm = torch.nn.LSTM(3, 4, batch_first=True)

    def forward(self, Type, free):
        y = self.lstm(Type * free[..., None].float())[0]
        return y, 2 * free.long()


def labels(unit):
    words = ("the", "Film", "was", "good", "bad", ".", "don't", "é", "<unk>")
    vocabulary = tuple("abcdefghi") if unit == "character" else words
    task = Classify(labels=("bad", "so so", 'very "good"'), vocabulary=vocabulary, unit=unit, unknown=8)
    return Feeder(Labels(), {"x": "int64[batch,seq]"}, task)


def others():
    """Networks of every layout, and of every task."""
    torch.manual_seed(26)
    text = OneHotText(256)  # writes ASCII: some programs write what is no UTF-8 as it is, and others replace it
    columns = Forecast(features=("a", "b", "c"), targets=("b", "c"), window=4, horizon=3)
    return {
        **feeders(),
        **{f"classifier of {unit}s": labels(unit) for unit in ("word", "token", "character")},
        "bytes": Feeder(text, {"x": "float32[batch,seq,256]"}, LanguageModel(vocabulary=BYTES, unit="byte")),
        "horizon": Feeder(Ahead(), {"x": "float32[batch,seq,3]"}, columns),
        "no task": Feeder(Ahead(), {"x": "float32[batch,seq,3]"}, None),
        "cells": Feeder(Cells(), {"x": "float32[batch,seq,3]"}, None),
        "one step": Feeder(StepCell(), {"x": "float32[batch,3]"}, None),
        "two inputs": Feeder(Seq2Seq(), {"x": "float32[batch,seq,3]", "target": "float32[batch,seq,2]"}, None),
        "kinds": Feeder(Kinds(), {"Type": "float32[batch,seq,3]", "free": "bool[batch,seq]"}, None),
    }


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The bundle of one of the others, with the format that a target takes."""

    def bundle(name, target):
        formats = ("torchscript",) if format_of(target) == "torchscript" else ("onnx", "c")

        def make(folder):
            feeder = others()[name]
            lstm_deploy.export(
                feeder.module,
                folder / "b",
                inputs=feeder.inputs,
                task=feeder.task,
                state_policy=feeder.state_policy,
                state_layout=feeder.state_layout,
                formats=formats,
            )

        return once(tmp_path_factory, "-".join((*formats, name)), make) / "b"

    return bundle


def series(path, columns):
    """A CSV whose third row lacks its first value, with blank lines, which are no rows."""
    rows = np.random.default_rng(0).normal(size=(30, len(columns))).round(3)
    lines = [",".join(map(str, row)) for row in rows]
    lines[2] = lines[2][lines[2].index(",") :] if len(columns) > 1 else lines[2]
    lines.insert(20, "")
    path.write_text("\r\n".join([",".join(columns), *lines]) + "\n\n\n", encoding="utf-8")
    return str(path)


TEXTS = {
    "word": ["the Film was good", " bad  Don't"],
    "token": ["The film: GOOD.", "É don't, was", "don’t"],
    "character": ["abba", "hiz"],
}


@pytest.mark.parametrize("target", [target for target in TARGETS if target != "web"])
@pytest.mark.parametrize("name", sorted(others()))
def test_a_client_serves_models_of_every_layout_and_task(exported, name, target, tmp_path, tmp_path_factory):
    need(target)
    if target == "cpp-torch" and name not in ("two LSTMs", "learned start", "time-major"):
        pytest.skip("takes half a minute to compile: the same class as on ONNX Runtime, where it is tried")
    bundle = exported(name, target)
    client, model = Client(target, bundle, tmp_path / "c", factory=tmp_path_factory).build(), lstm_deploy.open(bundle)
    task = model.signature.task
    said, passed = client.replay()
    assert passed, said
    match task:
        case LanguageModel():
            prompt = "hé" if task.unit == "byte" else "abc"
            wanted = (prompt + predictions.generate(model, task, [prompt], 12)[0]).encode()
            assert client.call(*client.command, "run", prompt, "12", text=False).rstrip(b"\n") == wanted.rstrip(b"\n")
        case Classify():
            out = client.run("run", *TEXTS[task.unit]).splitlines()
            assert out == [str(predictions.classify(model, task, text)) for text in TEXTS[task.unit]]
        case Forecast():
            steps, file = (task.horizon, 5)[task.horizon == 1], series(tmp_path / "s.csv", task.features)
            wanted = predictions.forecast(model, task, read_series(Path(file), task.features), steps)
            heading, *rows = client.run("run", file, str(steps)).splitlines()
            assert heading == ",".join(task.targets)
            np.testing.assert_allclose([[float(c) for c in r.split(",")] for r in rows], wanted, rtol=1e-3, atol=1e-4)
        case None if len(model.signature.inputs) == 1:
            rows = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
            (tmp_path / "s.csv").write_text("\n".join(",".join(map(str, row)) for row in rows), encoding="utf-8")
            said = client.run("run", str(tmp_path / "s.csv")).replace("\n", ",").strip(",").split(",")
            wanted = model.stream().feed(rows[None])
            np.testing.assert_allclose([float(number) for number in said], wanted.ravel(), rtol=1e-4, atol=1e-5)
            table = "\r\n".join(["a,b,c", "", *(",".join(map(str, row)) for row in rows)]) + "\r\n \n"
            (tmp_path / "t.csv").write_text(f"\ufeff{table}", encoding="utf-8", newline="")
            assert client.run("run", str(tmp_path / "t.csv")).replace("\n", ",").strip(",").split(",") == said
            (tmp_path / "t.csv").write_text("1,2,3\n1,x,3\n", encoding="utf-8")
            assert client.run("run", str(tmp_path / "t.csv"), code=2).startswith("error: ")
            (tmp_path / "t.csv").write_text("1,b,c\n1,2,3\n", encoding="utf-8")
            assert client.run("run", str(tmp_path / "t.csv"), code=2).startswith("error: ")


@pytest.mark.parametrize("name", ["classifier of tokens", "horizon", "no task", "carried", "window", "bytes"])
def test_a_page_serves_every_task(exported, name, tmp_path):
    need("web")
    bundle = exported(name, "web")
    page, model = Client("web", bundle, tmp_path / "c"), lstm_deploy.open(bundle)
    task = model.signature.task
    match task:
        case LanguageModel():
            seen = page.browse("--prompt", "abc")
            assert seen["result"].startswith("abc")
            assert len(seen["result"]) > len("abc")
        case Classify():
            seen = page.browse("--text", "The film: É.")
            verdict = predictions.classify(model, task, "The film: É.")
            assert seen["result"].startswith(f"{verdict.label} {100 * verdict.probability:.1f} %")
        case Forecast():
            file = series(tmp_path / "s.csv", task.features)
            seen = page.browse("--file", file)
            steps = 20 if task.horizon == 1 else task.horizon
            wanted = predictions.forecast(model, task, read_series(Path(file), task.features), steps)[:, 0]
            heading, said = seen["result"].splitlines()[0].split(": ")
            assert heading == f"next {task.targets[0]}"
            np.testing.assert_allclose([float(each) for each in said.split(", ")], wanted, rtol=1e-3, atol=1e-4)
        case None:
            (tmp_path / "s.csv").write_text("1,2,3\n4,5,6\n", encoding="utf-8")
            seen = page.browse("--file", str(tmp_path / "s.csv"))
            wanted = model.run({"x": np.array([[[1, 2, 3], [4, 5, 6]]], np.float32)})["y"][0, -1]
            assert float(seen["result"].removeprefix("after the last row: ")) == pytest.approx(wanted, rel=1e-4)
    assert seen["error"] == ""
    assert seen["replay"] == "passed"


@pytest.mark.parametrize("target", ["c", "go", "rust"])
def test_weights_beside_a_program_go_with_it(target, tmp_path):
    need(target)
    network = torch.nn.LSTM(64, 600, batch_first=True)
    lstm_deploy.export(network, tmp_path / "b", inputs={"x": "float32[batch,seq,64]"}, formats=("c",))
    client = Client(target, tmp_path / "b", tmp_path / "c").build()
    assert client.replay()[1]
    (client.folder / "model.c.data").write_bytes(b"else")
    assert "model.c.data" in client.call(*client.command, "replay", code=2)


def test_the_types_of_the_node_client_are_those_of_its_code(built, tmp_path):
    client = built("node", "prices", "float32")
    program = """
import { Model, replay, TARGETS } from "./client.mjs";
const model: Model = await Model.open();
const { y } = await model.step({ x: [1, 2, 3, 4] });
const first: number = y[0]!;
const saved: Float32Array = model.state.h_in;
model.state = { ...model.state, h_in: Array.from(saved) };
const rows: number[][] = await model.forecast([[first, 2, 3, 4]]);
const found: string[] = (await replay(model, TARGETS.join())).wrong;
// @ts-expect-error there is no such input
await model.step({ z: rows[0]!, found });
"""
    (client.folder / "example.mts").write_text(program, encoding="utf-8")
    command = [
        "node",
        NODE / "node_modules" / "typescript" / "bin" / "tsc",
        "--noEmit",
        "--strict",
        "--target",
        "es2022",
    ]
    options = ["--module", "nodenext", "--moduleResolution", "nodenext", "--noUncheckedIndexedAccess", "--types", ""]
    done = subprocess.run(
        [*command, *options, "example.mts"], cwd=client.folder, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout


def fences(language):
    """The program of a language in the docs, which uses the generated client; what is written by hand comes after."""
    page = (ROOT / "docs" / "embed.md").read_text(encoding="utf-8")
    found = re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)[0]
    assert len(found.strip().splitlines()) <= 16
    return found


@pytest.mark.parametrize("target", TARGETS)
def test_the_program_in_the_docs_does_what_it_says(target, forecaster, tmp_path):
    need(target)
    lstm_deploy.export(forecaster, tmp_path / "prices", formats=(format_of(target),))
    client = Client(target, tmp_path / "prices", tmp_path / "c")
    stream = lstm_deploy.open(tmp_path / "prices").stream(batch=1)
    for row in [[101.0, 103.2, 100.1, 102.5], [102.6, 104.0, 102.2, 103.9]]:
        y = stream.step([row])
    wanted = f"next close: {y.ravel()[-1]:.3f}"
    match target:
        case "python" | "node":
            name, fence = {"python": ("client.py", "python"), "node": ("client.mjs", "js")}[target]
            example = name.replace("client", "example")
            (client.folder / example).write_text(fences(fence), encoding="utf-8")
            said = client.call(client.command[0], example)
        case "web":
            (client.folder / "index.html").write_text(fences("html"), encoding="utf-8")
            said = client.browse()["result"]
        case _:
            language = language_of(target)
            main = {"c": "main.c", "cpp": "main.cpp", "go": "main.go", "rust": "main.rs"}[language]
            (client.folder / main).write_text(fences(language), encoding="utf-8")
            said = client.build().call(*client.command)
    assert said.strip().splitlines()[-1] == wanted
