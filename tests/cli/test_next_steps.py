"""Every line that is printed under `next:` runs as it stands."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from c_programs import NEEDS_CC
from command_line import QUICK, fails, run
from msgspec.structs import replace
from next_lines import next_lines
from torch import nn

from lstm_deploy.artifacts import Bundle, unproven
from lstm_deploy.benchmark import runner
from lstm_deploy.cli import next_steps
from lstm_deploy.embedding import LANGUAGES
from lstm_deploy.errors import LstmDeployError


@pytest.fixture(autouse=True)
def no_peaks(monkeypatch):
    """Nobody looks at the limits of the machine here, and they take seconds to measure."""

    def refuse(*_):
        raise LstmDeployError("not here.")

    monkeypatch.setattr(runner.peaks, "measure", refuse)


def follow(printed: str) -> list[str]:
    """Run each line of `next:`, and return what these print as the next ones."""
    lines = next_lines(printed)
    assert lines
    further = []
    for line in lines:
        program, *words = shlex.split(line)
        if program == "lstm-deploy":
            further += next_lines(run(*words)[1])
        else:
            subprocess.run(["bash", "-c", line], check=True, capture_output=True)
    return further


def test_a_forecast_goes_from_its_data_to_a_client_by_what_is_printed(prices):
    shutil.copy(prices, "my prices.csv")
    words = ["--task", "forecast", "--target", "open,close", "--features", "open,close"]
    _, err = run("train", "my prices.csv", *words, *QUICK)
    (export,) = next_lines(err)
    after_export = follow(err)
    folder = "'exported/my prices'"
    assert export == "lstm-deploy export 'my prices.safetensors'"
    assert after_export == [
        f"lstm-deploy bench {folder}",
        f"lstm-deploy run {folder} --input 'my prices.csv'",
        f"lstm-deploy embed {folder} --lang python",
    ]
    replay = next(line for line in follow("next: " + "\n      ".join(after_export)) if line.startswith("cd "))
    assert replay.startswith("cd 'my prices-python' && ")
    follow(f"next: {replay}")
    _, again = run("train", "my prices.csv", *words, *QUICK, "--force")
    assert next_lines(again) == [f"{export} --force"]
    follow(again)
    _, inspected = run("inspect", "my prices.safetensors")
    assert next_lines(inspected) == [f"lstm-deploy inspect {folder}"]  # not an export that would replace what is there


def test_what_validate_and_inspect_print_next_runs(bundle_copy):
    assert next_lines(run("validate", bundle_copy)[1]) == [shlex.join(["lstm-deploy", "bench", str(bundle_copy)])]
    assert next_lines(run("inspect", bundle_copy)[1]) == [shlex.join(["lstm-deploy", "bench", str(bundle_copy)])]
    follow(run("inspect", bundle_copy.with_name("forecaster.safetensors"))[1])
    (bundle_copy / "model.onnx").write_bytes(b"x")
    assert next_lines(run("inspect", bundle_copy)[1]) == []


NET = """
from torch import nn


class Net(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.gru = nn.GRU(3, hidden, batch_first=True)

    def forward(self, x):
        return self.gru(x)[0]
"""


def test_a_verdict_that_failed_is_changed_by_what_is_printed(tmp_path, monkeypatch):
    """A golden trace alone changes none, so `bench`, which would refuse, is not what comes next."""
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET, encoding="utf-8")
    torch.save(nn.GRU(3, 4, batch_first=True).state_dict(), "gru.pt")
    torch.save({f"gru.{name}": value for name, value in torch.load("gru.pt").items()}, "net.pt")
    run("export", "net.pt", "--model", "net.py:Net", "--init", '{"hidden": 4}', "--input", "x:float32[batch,seq,3]")
    proving = "lstm-deploy validate exported/net --reference net.pt --model net.py:Net --init '{\"hidden\": 4}'"
    _, err = run("validate", "exported/net")
    assert "its source net.pt needs the class net.py:Net" in err
    assert next_lines(err) == [proving, "lstm-deploy bench exported/net"]

    bundle = Bundle("exported/net")
    checks = tuple(replace(check, passed=False) for check in bundle.manifest.parity.checks)
    bundle.update(parity=replace(bundle.manifest.parity, passed=False, checks=checks))
    _, err = run("validate", "exported/net")
    assert "the verdict in the bundle is still FAILED, against PyTorch in float64 (net.pt)" in err
    assert next_lines(err) == [proving]
    assert next_lines(run("inspect", "exported/net")[1]) == [proving]
    assert f"run {proving}, or skip" in fails("bench", "exported/net")
    assert follow(err) == ["lstm-deploy bench exported/net"]
    assert all(not unproven(Bundle("exported/net"), artifact) for artifact in bundle.manifest.exported)


def test_a_model_that_cannot_be_named_is_asked_for_where_only_its_trace_was_replayed(bundle_copy):
    bundle_copy.with_name("forecaster.safetensors").unlink()
    _, err = run("validate", bundle_copy)
    asked = f"its source forecaster.safetensors is gone; run lstm-deploy validate {bundle_copy} --reference FILE to"
    assert asked in err
    assert next_lines(err) == [f"lstm-deploy bench {bundle_copy}"]


def test_a_verdict_that_was_not_recorded_leads_to_no_bench_that_would_refuse_it(bundle_copy):
    bundle = Bundle(bundle_copy)
    bundle.update(parity=None)
    assert next_lines(run("validate", bundle_copy, "--no-record")[1]) == []


def test_a_language_model_is_prompted_with_letters_that_it_knows(lm_bundle):
    ((_, _, option, prompt),) = next_steps.use(Bundle(lm_bundle), lm_bundle)
    assert option == "--prompt"
    assert run("run", lm_bundle, option, prompt, "--steps", "3")[0].startswith(prompt)
    (varied,) = next_steps.after_run(lm_bundle, None, [prompt], None, 0.0)
    run(*varied, "--steps", "3")


def test_a_forecast_is_plotted_next(forecast_bundle, prices):
    (longer,) = next_steps.after_run(forecast_bundle, prices, [], None, 0.0, 10)
    assert longer[longer.index("--steps") + 1] == 10
    (plotted,) = next_steps.after_run(forecast_bundle, prices, [], None, 0.0)
    run(*plotted)
    assert Path("forecast-forecast.png").is_file()
    assert next_steps.after_run(forecast_bundle, prices, [], Path("there.png"), 0.0) == []


@NEEDS_CC
@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_a_client_in_c_is_built_by_what_is_printed(language_model):
    run("export", language_model, "-o", "lm", "--format", "c")
    follow(run("embed", "lm", "--lang", "c", "-o", "a client")[1])


def test_a_client_in_cpp_is_built_with_the_pytorch_that_is_there(forecast_bundle):
    (line,) = next_lines(run("embed", forecast_bundle, "--lang", "cpp", "-o", "c")[1])
    found = line[line.index("$(") + 2 : line.index(')"')]
    printed = subprocess.run(["bash", "-c", found], check=True, capture_output=True, text=True).stdout.strip()
    assert Path(printed).is_dir()
    cpp = LANGUAGES["cpp"]
    assert next_steps.replay(cpp, Path("c"), ["model.onnx"]) == "", "README.md says where to get ONNX Runtime"
    assert "..." not in line
    assert shlex.quote(sys.executable) in line, "a name may be that of another Python, without torch"


def test_of_a_client_in_cpp_on_onnx_runtime_alone_the_source_of_that_is_told(forecaster):
    run("export", forecaster, "-o", "b", "--format", "onnx")
    _, error = run("embed", "b", "--lang", "cpp", "-o", "c")
    assert next_lines(error) == []
    assert "c/README.md says where to get ONNX Runtime, and how to build with that." in error


def test_a_python_that_a_shell_finds_is_called_by_its_name(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    line = next_steps.replay(LANGUAGES["python"], Path("c"), [])
    assert line == f"cd c && {Path(sys.executable).name} client.py replay"
    other = tmp_path / Path(sys.executable).name
    other.symlink_to(Path(sys.executable).resolve())  # as the Python of another virtual environment is
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shlex.split(next_steps.replay(LANGUAGES["python"], Path("c"), []))[3] == sys.executable
    monkeypatch.setenv("PATH", "")
    assert shlex.split(next_steps.replay(LANGUAGES["python"], Path("c"), []))[3] == sys.executable
