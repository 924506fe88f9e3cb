import json
import re
from pathlib import Path

from command_line import run


def test_embed_lists_its_languages_and_writes_a_client(lm_bundle):
    out, _ = run("embed", "--list")
    assert re.search(r"^c +c +a C compiler and make *$", out, re.MULTILINE)
    listed = json.loads(run("embed", "--list", "--json")[0])
    assert list(listed) == ["python", "node", "web", "cpp", "c", "go", "rust"]
    assert listed["cpp"]["formats"] == ["torchscript", "onnx"]
    out, error = run("embed", lm_bundle, "--lang", "python")
    assert out == "wrote lm-python: README.md, client.py, golden.txt, model.onnx\n"
    assert error == "next: cd lm-python && python client.py replay\n"
    document = json.loads(run("embed", lm_bundle, "--lang", "node", "-o", "n", "--json")[0])
    assert document["files"] == sorted(file.name for file in Path("n").iterdir())
