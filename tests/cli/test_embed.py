import json
import re
from pathlib import Path

from command_line import fails, run
from next_lines import next_lines

from lstm_deploy.cli import next_steps
from lstm_deploy.embedding import LANGUAGES


def test_embed_lists_its_languages_and_writes_a_client(lm_bundle):
    out, _ = run("embed", "--list")
    assert re.search(r"^  c +c +a C compiler and make$", out, re.MULTILINE)
    listed = json.loads(run("embed", "--list", "--json")[0])
    assert list(listed) == ["python", "node", "web", "cpp", "c", "go", "rust"]
    assert listed["cpp"]["formats"] == ["torchscript", "onnx"]
    out, error = run("embed", lm_bundle, "--lang", "python")
    assert out == "wrote lm-python: README.md, client.py, embedded.json, golden.txt, model.onnx\n"
    assert next_lines(error) == [next_steps.replay(LANGUAGES["python"], Path("lm-python"), [])]
    document = json.loads(run("embed", lm_bundle, "--lang", "node", "-o", "n", "--json")[0])
    assert document["files"] == sorted(file.name for file in Path("n").iterdir())


def test_only_a_client_is_replaced_with_force(lm_bundle, bundle_copy):
    Path("mine").mkdir()
    Path("mine/README.md").write_text("mine")
    assert "choose another output" in fails("embed", lm_bundle, "--lang", "python", "-o", "mine")
    for folder, name in (("mine", "README.md"), (bundle_copy, "model.onnx")):
        words = ("embed", lm_bundle, "--lang", "python", "-o", folder, "--force")
        assert f"{name} is not of a client that embed wrote" in fails(*words)
    assert Path("mine/README.md").read_text() == "mine"
    run("embed", lm_bundle, "--lang", "python", "-o", "client")
    Path("client/mine.txt").write_text("mine")
    run("embed", lm_bundle, "--lang", "node", "-o", "client", "--force")
    assert Path("client/mine.txt").read_text() == "mine"


def test_a_program_that_was_changed_is_kept_and_said_to_be(forecast_bundle):
    run("embed", forecast_bundle, "--lang", "cpp", "-o", "client")
    for name in ("main.cpp", "CMakeLists.txt", "client.hpp"):
        Path("client", name).write_text("// mine\n")
    words = ("embed", forecast_bundle, "--lang", "cpp", "-o", "client", "--force")
    assert "client.hpp was changed since embed wrote it, and the changes would be lost; move it away" in fails(*words)
    Path("client/client.hpp").rename("mine.hpp")
    out, error = run(*words)
    assert "main.cpp" not in out
    assert "class Model" in Path("client/client.hpp").read_text()
    for name in ("main.cpp", "CMakeLists.txt"):
        assert f"kept client/{name}, which you changed" in error
        assert Path("client", name).read_text() == "// mine\n"
    assert json.loads(run(*words, "--json")[0])["kept"] == ["main.cpp", "CMakeLists.txt"]
    Path("client/main.cpp").unlink()
    assert "main.cpp" in run(*words)[0]


def test_what_was_not_changed_is_replaced_after_another_export(forecast_bundle, lm_bundle):
    run("embed", forecast_bundle, "--lang", "node", "-o", "client")
    for file in Path("client").glob("*.mjs"):
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))  # as git may check it out
    _, error = run("embed", lm_bundle, "--lang", "node", "-o", "client", "--force")
    assert "kept" not in error
    assert "VOCABULARY" in Path("client/client.mjs").read_text()
    for broken in ("", "[]", '{"files": 1}'):
        Path("client/embedded.json").write_text(broken)
        run("embed", lm_bundle, "--lang", "node", "-o", "client", "--force")
    Path("client/embedded.json").unlink()
    assert "was changed" in fails("embed", forecast_bundle, "--lang", "node", "-o", "client", "--force")


def test_what_is_no_bundle_and_what_cannot_be_written_is_told(lm_bundle):
    Path("file").touch()
    assert "none does not exist" in fails("embed", "none", "--lang", "c")
    assert "file is not a bundle" in fails("embed", "file", "--lang", "c")
    assert "file is not a directory" in fails("embed", lm_bundle, "--lang", "python", "-o", "file/deep/x")


def test_what_a_killed_embed_left_is_removed_by_the_next(lm_bundle):
    run("embed", lm_bundle, "--lang", "python", "-o", "client")
    for left in (Path("client/.partial-abcdefgh"), Path(".other.partial-abcdefgh")):
        left.mkdir()
    run("embed", lm_bundle, "--lang", "python", "-o", "client", "--force")
    run("embed", lm_bundle, "--lang", "python", "-o", "other")
    assert sorted(file.name for file in Path().iterdir()) == ["client", "other"]
    assert not list(Path().rglob(".*"))
