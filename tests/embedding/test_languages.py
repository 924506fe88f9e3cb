"""What is written for each language: texts as literals, and a row in the documentation."""

import ast
import json
import re
import shutil
import subprocess

import pytest
import torch
from clients import ROOT, TARGETS, language_of
from feeding import Series

import lstm_deploy
from lstm_deploy.artifacts.bundle import Bundle
from lstm_deploy.artifacts.formats import FORMATS
from lstm_deploy.contract.tasks import Forecast
from lstm_deploy.embedding import generate
from lstm_deploy.embedding.languages import LANGUAGES, c_literal, js_literal, python_literal

NASTY = "a\"'`\\\n*/ </script>?>${x}{{y}}%s\u2028é"


def test_a_strangers_names_are_no_code(tmp_path):
    """A bundle may come from anyone: what its names say stays text in every language."""
    task = Forecast(features=(NASTY, '""")'), targets=(NASTY,), window=3)
    module = Series(2)
    module.fc = torch.nn.Linear(6, 1)
    lstm_deploy.export(
        module, tmp_path / "b", inputs={"x": "float32[batch,seq,2]"}, task=task, formats=("onnx", "torchscript", "c")
    )
    bundle = Bundle(tmp_path / "b")
    bundle.update(name='x*/ """ </script> \n#')
    for language in LANGUAGES:
        generate.embed(bundle, tmp_path / language, language)
    tree = ast.parse((tmp_path / "python" / "client.py").read_text(encoding="utf-8"))
    features = next(n.value for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == "FEATURES")
    assert ast.literal_eval(features) == task.features
    page = (tmp_path / "web" / "index.html").read_text(encoding="utf-8")
    assert page.count("</script>") == 2
    for language in ("node", "web"):
        assert json.loads((tmp_path / language / "package.json").read_text(encoding="utf-8"))["name"] == "x-script"
    if shutil.which("node"):
        subprocess.run(["node", "--check", "client.mjs"], cwd=tmp_path / "node", check=True)
    if shutil.which("cc"):
        command = ["cc", "-std=c99", "-Wall", "-Werror", "-c", "main.c", "-o", "/dev/null"]
        subprocess.run(command, cwd=tmp_path / "c", check=True)


@pytest.mark.parametrize("text", [NASTY, "", "\0", "???", "\x7f\x01", "𝄞"])
def test_texts_are_written_as_they_are(text):
    assert ast.literal_eval(python_literal(text)) == text
    assert json.loads(js_literal(text)) == text
    written = c_literal(text)
    assert written.isascii()
    assert ast.literal_eval("b" + written.replace("\\?", "?")).decode() == text


def test_every_language_is_documented_and_tested():
    page = (ROOT / "docs" / "embed.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*) \|$", page, re.MULTILINE)
    wanted = [
        (name, " or ".join(FORMATS[kind].label for kind in each.formats), each.needs)
        for name, each in LANGUAGES.items()
    ]
    assert rows == wanted, "the table says what embed --list says"
    assert {language_of(target) for target in TARGETS} == LANGUAGES.keys()
