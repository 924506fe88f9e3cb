import os
import subprocess
from pathlib import Path

import pytest
from command_line import COMMAND

from lstm_deploy.cli.completion import bundles, listed, targets


@pytest.fixture(autouse=True)
def bundles_here():
    for name in ("exported/prices", "exported/book", "mine"):
        Path(name).mkdir(parents=True)
        Path(name, "manifest.json").touch()
    Path("exported/other").mkdir()
    for name in ("model.onnx", "exported/prices/model.onnx", ".hidden"):
        Path(name).touch()


def completed(words):
    """What bash is told for a line that ends where the words do."""
    environment = {
        **os.environ,
        "_LSTM_DEPLOY_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    program = "from lstm_deploy.cli import main; main()"
    done = subprocess.run([COMMAND[0], "-c", program], capture_output=True, text=True, env=environment, check=False)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "answers"),
    [
        ("lstm-deploy va", ["validate"]),
        ("lstm-deploy train --sche", ["--schedule"]),
        ("lstm-deploy train --schedule co", ["constant", "cosine"]),
        ("lstm-deploy run --provider ", ["cpu", "cuda", "tensorrt"]),
        ("lstm-deploy embed --lang py", ["python"]),
        ("lstm-deploy export --format onnx,t", ["onnx,torchscript"]),
        ("lstm-deploy bench --baseline open", ["openvino", "openvino-bf16"]),
        ("lstm-deploy run ", ["exported/book", "exported/prices", "mine"]),
        ("lstm-deploy embed exported/p", ["exported/prices"]),
        ("lstm-deploy validate m", ["mine", "model.onnx"]),
        ("lstm-deploy export ", []),
    ],
)
def test_the_shell_completes_commands_options_choices_and_bundles(words, answers):
    assert completed(words) == answers


def test_completion_is_installed_for_the_shell(tmp_path):
    environment = {**os.environ, "HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    words = [*COMMAND, "--install-completion", "bash"]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=True)
    assert "bash completion installed" in done.stdout
    assert "_LSTM_DEPLOY_COMPLETE=complete_bash" in (tmp_path / ".bash_completions/lstm-deploy.sh").read_text()
    assert "bash_completions" in (tmp_path / ".bashrc").read_text()


def test_the_last_of_several_names_is_completed_and_none_is_offered_twice():
    complete = listed(("onnx", "torchscript", "c"))
    assert complete("") == ["onnx", "torchscript", "c"]
    assert complete("c,") == ["c,onnx", "c,torchscript"]
    assert complete("c,o") == ["c,onnx"]


def test_bundles_are_found_in_the_folder_that_was_typed():
    assert bundles("exported/") == ["exported/book", "exported/prices"]
    assert bundles("nowhere/") == []
    assert targets("exported/prices/") == ["exported/prices/manifest.json", "exported/prices/model.onnx"]
