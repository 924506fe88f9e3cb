"""Every line that is printed under `next:` runs as it stands."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from c_programs import NEEDS_CC
from command_line import QUICK, run
from next_lines import next_lines

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


def test_what_validate_and_inspect_print_next_runs(bundle_copy):
    assert next_lines(run("validate", bundle_copy)[1]) == [shlex.join(["lstm-deploy", "bench", str(bundle_copy)])]
    assert next_lines(run("inspect", bundle_copy)[1]) == [shlex.join(["lstm-deploy", "bench", str(bundle_copy)])]
    follow(run("inspect", bundle_copy.with_name("forecaster.safetensors"))[1])
    (bundle_copy / "model.onnx").write_bytes(b"x")
    assert next_lines(run("inspect", bundle_copy)[1]) == []


def test_a_language_model_is_prompted_with_letters_that_it_knows(lm_bundle):
    from lstm_deploy.artifacts import Bundle

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


def test_a_python_that_a_shell_finds_is_called_by_its_name(monkeypatch):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    line = next_steps.replay(LANGUAGES["python"], Path("c"), [])
    assert line == f"cd c && {Path(sys.executable).name} client.py replay"
    monkeypatch.setenv("PATH", "")
    assert shlex.split(next_steps.replay(LANGUAGES["python"], Path("c"), []))[3] == sys.executable
