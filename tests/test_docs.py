"""Every command and program of the documentation is run, in the order in which a reader meets them."""

import inspect
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pages
import pytest
import torch
from c_programs import NEEDS_CC
from pages import play, read
from torch import nn

import lstm_deploy
from lstm_deploy.cli import app, demo
from lstm_deploy.exporters.precision import selection
from lstm_deploy.validation import pipeline as validation
from lstm_deploy.validation.case_inputs import QUICK

ROOT = pages.ROOT


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a table of prices."""
    monkeypatch.chdir(tmp_path)
    demo.write_prices(tmp_path / "prices.csv")
    return tmp_path


@pytest.mark.parametrize("page", ["quickstart.md", "guides/forecast.md", "guides/sessions.md", "sources.md"])
def test_a_page_works_as_written(page, folder):
    play(read(page))


@NEEDS_CC
@pytest.mark.parametrize("page", ["guides/audio.md", "guides/policy.md"])
def test_a_page_with_c_works_as_written(page, folder):
    play(read(page))


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # from PyTorch's own exporter
def test_the_answers_to_questions_are_right(folder):
    play(read("faq.md"))


def test_the_page_of_training_works_as_written(folder):
    names = play(read("training.md"), {"train": ("--rows", "200")})
    assert names["trained"].evaluation.metrics["rmse"] > 0
    assert Path("sine.safetensors").is_file()


@pytest.fixture
def recipe_files(folder):
    """Small files in the place of those of the recipes."""
    rows = Path("prices.csv").read_text(encoding="utf-8").splitlines()
    Path("aaxj.us.txt").write_text("\n".join(["Date,Open,High,Low,Close", *rows[1:]]), encoding="utf-8")
    demo.write_text(Path("help.txt"))
    Path("tinyshakespeare.txt").write_text(Path("help.txt").read_text(encoding="utf-8")[:20_000], encoding="utf-8")
    Path("reviews.csv").write_text("text,label\n" + "a great film,good\nan awful film,bad\n" * 20, encoding="utf-8")
    Path("vectors.txt").write_text("great 1 2\nawful -1 -2\nfilm 0 1\n", encoding="utf-8")


def test_the_recipes_work_as_written(recipe_files):
    play(read("recipes.md"), {"train": ("--epochs", "1", "--hidden-size", "8")})
    assert len(list(Path().glob("*.safetensors"))) == 6


def test_the_results_of_training_are_those_of_the_recipes(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import training as benchmark

    found = json.loads((benchmark.RESULTS / "training.json").read_text(encoding="utf-8"))
    assert (benchmark.RESULTS / "training.md").read_text(encoding="utf-8") == benchmark.markdown(found)
    written = [shlex.join(["lstm-deploy", *words]) for words in benchmark.commands()]
    assert [system["command"] for system in found["systems"]] == [line for line in written if "reviews" not in line]


class Series(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(1, 8, batch_first=True)
        self.fc = nn.Linear(8, 1)

    def forward(self, x):
        return self.fc(self.lstm(x)[0][:, -1])


class Letters(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(26, 8, batch_first=True)
        self.fc = nn.Linear(8, 26)

    def forward(self, x):
        return self.fc(self.lstm(x)[0])


class Lines(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(3, 4)
        self.lstm = nn.LSTM(4, 8, batch_first=True)
        self.fc = nn.Linear(8, 2)

    def forward(self, x):
        return self.fc(self.lstm(self.embedding(x))[0][:, -1])


def test_the_page_of_streams_works_as_written(folder):
    code = "\n\n".join(inspect.getsource(kind) for kind in (Letters, Series, Lines))
    Path("net.py").write_text(f"from torch import nn\n\n{code}", encoding="utf-8")
    for kind in (Letters, Series, Lines):
        torch.save(kind().state_dict(), f"{kind.__name__.lower()}.pt")
    Path("letters.txt").write_text("abcdefghijklmnopqrstuvwxy ", encoding="utf-8")
    Path("words.json").write_text('["<unk>", "good", "bad"]', encoding="utf-8")
    assert play(read("streams.md"))["y"].shape == (1, 50, 4)


@NEEDS_CC
def test_the_page_of_clients_works_as_written(folder):
    """But for its programs in each language, which are run by `make test-embed`."""
    page = read("embed.md")
    play("".join(f"```sh\n{block.text}```\n" for block in pages.blocks(page, "sh")), {"train": pages.QUICK["train"]})
    (program,) = pages.blocks(page, "py")
    exec(program.text, {"lstm_deploy": lstm_deploy})
    assert Path("client/main.mjs").is_file()


def test_a_forecast_by_hand_takes_few_lines_and_no_package_of_ours(exported, capsys):
    program = next(block.text for block in pages.blocks(read("embed.md"), "python") if "onnxruntime" in block.text)
    assert "lstm_deploy." not in re.sub(r'"[^"]*"', "", program)
    assert len([line for line in program.splitlines() if line.strip()]) <= 25
    exec(program, {})
    assert "next close: " in capsys.readouterr().out


@NEEDS_CC
def test_the_page_of_c_works_as_written(folder, capsys):
    """Trained for one epoch; the program's forecast is that of `run` for the same rows."""
    rows = Path("prices.csv").read_text(encoding="utf-8").splitlines()
    Path("aaxj.us.txt").write_text("\n".join(["Date,Open,High,Low,Close", *rows[1:]]), encoding="utf-8")
    program, *others = sorted(pages.blocks(read("c.md")), key=lambda block: block.title, reverse=True)
    assert len([line for line in program.text.splitlines() if line.strip()]) <= 30
    Path(program.title).write_text(program.text, encoding="utf-8")
    commands, python = (block.text for block in others)
    for line in pages.commands(commands):
        strict = " -Wall -Wextra -Werror -pedantic" if line.startswith("cc ") else ""
        pages.call(line + strict, {"train": ("--epochs", "1")})
    table = Path("aaxj.us.txt").read_bytes()
    said = subprocess.run(["./forecast"], input=table, check=True, capture_output=True).stdout.splitlines()
    capsys.readouterr()
    assert not app(["run", "exported/aaxj", "--input", "aaxj.us.txt", "--json"], standalone_mode=False)
    ((wanted,),) = json.loads(capsys.readouterr().out)["values"]
    assert float(said[-1]) == pytest.approx(wanted, rel=1e-5)
    exec(python, {})


def test_the_latencies_on_the_page_of_c_are_those_of_the_results(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import c as benchmark

    found = json.loads((ROOT / "benchmarks/results/c.json").read_text(encoding="utf-8"))
    assert benchmark.short_table(found) == read("c.md").partition("-->\n")[2].partition("<!--")[0].strip()


@pytest.fixture(scope="module")
def made(forecaster, tmp_path_factory):
    """The bundle of a forecaster, made once."""
    folder = tmp_path_factory.mktemp("made")
    shutil.copy(forecaster, folder / "prices.safetensors")
    return lstm_deploy.export(folder / "prices.safetensors", folder / "exported" / "prices", formats=["onnx"]).path


@pytest.fixture
def exported(folder, made):
    """`exported/prices`, and the checkpoint that it is of, where it was."""
    shutil.copytree(made, "exported/prices")
    shutil.copy(made.parents[1] / "prices.safetensors", "prices.safetensors")


def rename(graph, old, new):
    for names in (names for node in graph.node for names in (node.input, node.output)):
        names[:] = [new if name == old else name for name in names]
    for value in (*graph.input, *graph.output):
        value.name = new if value.name == old else value.name


def test_the_page_of_proof_works_as_written(exported, monkeypatch):
    """The bundle is one of a forecaster; the other files hold one LSTM, under names of others in `other.onnx`."""
    monkeypatch.setattr(validation, "THOROUGH", QUICK._replace(steps=100))
    shutil.copytree("exported/prices", "exported/mine")
    lstm = nn.LSTM(3, 4, batch_first=True)
    torch.save({f"lstm.{name}": value for name, value in lstm.state_dict().items()}, "weights.pt")
    bundle = lstm_deploy.export("weights.pt", "made").path
    shutil.copy(bundle / "model.torchscript", "another.torchscript")
    shutil.copy(bundle / "model.onnx", "one.onnx")
    model = onnx.load(bundle / "model.onnx")
    del model.metadata_props[:]
    for old, new in (("h_in", "h0"), ("h_out", "hn")):
        rename(model.graph, old, new)
    onnx.save(model, "other.onnx")
    play(read("validation.md"))


def test_the_page_of_precision_works_as_written(exported, monkeypatch):
    """Steps in int8 are not timed here, and said to take half of the time."""
    fast = {"scenario": "stream", "p50_us": 5.0, "p50_us_float32": 10.0, "time_ratio": 0.5}
    timed = {**fast, "time_ratio_interval": (0.4, 0.6)}
    monkeypatch.setattr(selection, "times", lambda paths, _: dict.fromkeys(paths, timed))
    torch.save(Series().state_dict(), "weights.pt")
    rng = np.random.default_rng(0)
    np.savez("held_out.npz", x=rng.normal(size=(8, 20, 1)).astype(np.float32), y=rng.normal(size=(8, 20, 1)))
    play(read("precision.md"))


def test_the_page_of_benchmarks_works_as_written(exported):
    play(read("benchmarks.md"), {**pages.QUICK, "compare": ("--fail-over", "99%")})


def test_the_page_of_gpus_works_as_written(exported):
    """Without a GPU its commands say so."""
    if torch.cuda.is_available():
        play(read("cuda.md"))
        return
    for block in pages.blocks(read("cuda.md"), "sh"):
        for line in pages.commands(block.text):
            assert "cuda" in pages.call(f"{line}  # exit code 4")
    pytest.skip("needs an NVIDIA GPU; without one, each command ends with exit code 4")


def test_every_page_that_runs_is_run():
    """Here, or in another file of tests that names it."""
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    for path in pages.DOCS.rglob("*.md"):
        page = path.relative_to(pages.DOCS).as_posix()
        assert f'"{page}"' in tests or not any(map(pages.runs, pages.blocks(read(page)))), page


def test_links_lead_somewhere():
    """`mkdocs build` looks at those of the site; on a host of repositories the same links are to work."""
    for path in pages.DOCS.rglob("*.md"):
        for link in re.findall(r"\]\((?!\w+:|#)([^)#]+)", path.read_text(encoding="utf-8")):
            assert (path.parent / link).exists(), (path, link)
