import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import killed
import pytest
from msgspec.structs import replace

from lstm_deploy.artifacts.bundle import (
    GOLDEN,
    MANIFEST,
    Artifact,
    Bundle,
    atomic_bundle,
    check_destination,
    check_unchanged,
    write_manifest,
)
from lstm_deploy.errors import InputError


def fill(folder: Path, text: str = "new") -> None:
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def test_a_bundle_appears_whole(tmp_path):
    with atomic_bundle(tmp_path / "deep" / "er" / "b", force=False) as partial:
        fill(partial)
        assert not (tmp_path / "deep/er/b").exists()
    assert os.listdir(tmp_path / "deep/er") == ["b"]
    assert (tmp_path / "deep/er/b" / MANIFEST).read_text() == "new"


ERRORS = [ValueError(), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_an_error_leaves_nothing_behind(tmp_path, error):
    with pytest.raises(type(error)), atomic_bundle(tmp_path / "b", force=False) as partial:
        fill(partial)
        raise error
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_an_error_leaves_the_old_bundle(bundle_copy, error):
    before = (bundle_copy / MANIFEST).read_bytes(), sorted(os.listdir(bundle_copy.parent))
    with pytest.raises(type(error)), atomic_bundle(bundle_copy, force=True) as partial:
        fill(partial)
        raise error
    assert before == ((bundle_copy / MANIFEST).read_bytes(), sorted(os.listdir(bundle_copy.parent)))


def test_force_replaces_a_bundle(bundle_copy):
    with atomic_bundle(bundle_copy, force=True) as partial:
        fill(partial)
    assert os.listdir(bundle_copy) == [MANIFEST]
    assert "forecast" in os.listdir(bundle_copy.parent)


def test_a_bundle_is_not_replaced_without_force(bundle_copy):
    with pytest.raises(InputError, match="--force"):
        check_destination(bundle_copy, force=False)


@pytest.mark.parametrize("force", [False, True])
def test_a_directory_that_is_no_bundle_is_never_replaced(tmp_path, bundle_copy, force):
    (tmp_path / "ext").mkdir()
    (tmp_path / "ext" / MANIFEST).write_text('{"name": "a browser extension"}')
    with pytest.raises(InputError, match="is not of a bundle"):
        check_destination(tmp_path / "ext", force=force)
    with pytest.raises(InputError, match="not a directory"):
        check_destination(tmp_path / "ext" / MANIFEST, force=force)
    (bundle_copy / "notes.txt").touch()
    with pytest.raises(InputError, match=r"notes\.txt, which is not of a bundle"):
        check_destination(bundle_copy, force=force)


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_a_bundle_is_as_readable_as_other_new_directories(tmp_path):
    (tmp_path / "plain").mkdir()
    with atomic_bundle(tmp_path / "b", force=False) as partial:
        fill(partial)
    assert (tmp_path / "b").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_directory_without_a_manifest_is_no_bundle(tmp_path):
    with pytest.raises(InputError, match="lstm-deploy export"):
        Bundle(tmp_path)


def edit(bundle: Path, **fields: object) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))
    (bundle / MANIFEST).write_text(json.dumps({**manifest, **fields}), encoding="utf-8")


def test_the_manifest_survives_a_round_trip(bundle_copy):
    before = Bundle(bundle_copy).manifest
    Bundle(bundle_copy).update(measurements={"results": []})
    after = Bundle(bundle_copy).manifest
    assert after.measurements == {"results": []}
    assert (after.contract, after.artifacts, after.parity) == (before.contract, before.artifacts, before.parity)


def test_a_manifest_of_a_newer_release_is_refused(bundle_copy):
    edit(bundle_copy, schema_version=2, contract="in a shape of its own")
    with pytest.raises(InputError, match="upgrade"):
        Bundle(bundle_copy)


def test_a_contract_of_a_newer_release_is_refused_in_a_manifest_of_this_one(bundle_copy):
    manifest = json.loads((bundle_copy / MANIFEST).read_text(encoding="utf-8"))
    edit(bundle_copy, contract={**manifest["contract"], "schema_version": 3})
    with pytest.raises(InputError, match="newer version than this release; upgrade"):
        Bundle(bundle_copy)


@pytest.mark.parametrize("fields", [{"artifacts": 3}, {"contract": {}}, {"schema_version": "one"}])
def test_a_malformed_manifest_is_refused(bundle_copy, fields):
    edit(bundle_copy, **fields)
    with pytest.raises(InputError, match="malformed"):
        Bundle(bundle_copy)


def test_an_artifact_outside_the_bundle_is_refused(bundle_copy):
    manifest = json.loads((bundle_copy / MANIFEST).read_text(encoding="utf-8"))
    manifest["artifacts"][0]["path"] = "../../etc/passwd"
    edit(bundle_copy, artifacts=manifest["artifacts"])
    bundle = Bundle(bundle_copy)
    with pytest.raises(InputError, match="outside"):
        bundle.file(bundle.manifest.artifacts[0])


def test_the_source_is_found_after_both_were_moved_together(bundle_copy, tmp_path):
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert Bundle(moved / "forecast").source_path == (moved / "forecaster.safetensors").resolve()


def test_a_source_that_changed_is_not_the_source(bundle_copy, tmp_path):
    with (tmp_path / "forecaster.safetensors").open("ab") as file:
        file.write(b"x")
    assert Bundle(bundle_copy).source_path is None


def test_changed_files_are_detected(bundle_copy):
    assert Bundle(bundle_copy).changed_files() == []
    (bundle_copy / "model.onnx").write_bytes(b"other")
    (bundle_copy / "golden.npz").unlink()
    assert Bundle(bundle_copy).changed_files() == ["model.onnx", "golden.npz"]


def test_only_c_artifacts_have_a_header(tmp_path):
    for name in ("model.c", "model.h", "model.onnx"):
        (tmp_path / name).write_text(name)
    assert Artifact.of(tmp_path / "model.onnx", "onnx").header is None
    artifact = Artifact.of(tmp_path / "model.c", "c")
    assert [name for name, _ in artifact.files] == ["model.c", "model.h"]
    assert artifact.bytes == 14


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("how", [["force"], ["fresh"], ["force", "in-two-steps"]], ids=" ".join)
def test_a_kill_at_any_point_leaves_a_whole_bundle_and_the_next_export_sweeps(forecast_bundle, tmp_path, how):
    (tmp_path / "one").mkdir()
    manifest = Bundle(forecast_bundle).manifest
    small = replace(manifest, artifacts=manifest.artifacts[:1], rollouts=(), parity=None)
    write_manifest(tmp_path / "one", small)
    for name in (small.artifacts[0].path, GOLDEN):
        shutil.copy(forecast_bundle / name, tmp_path / "one")
    (tmp_path / "all").mkdir()
    program = [sys.executable, killed.__file__, tmp_path / "one", tmp_path / "all", *how]
    result = subprocess.run(program, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 50


def test_what_a_killed_process_left_in_a_bundle_is_not_foreign(bundle_copy):
    (bundle_copy / f".{MANIFEST}.partial-abcdefgh").touch()
    check_destination(bundle_copy, force=True)
    (bundle_copy / ".notes.partial-abcdefgh").touch()
    with pytest.raises(InputError, match="not of a bundle"):
        check_destination(bundle_copy, force=True)


@pytest.mark.parametrize("meanwhile", ["a bundle", "notes"])
def test_what_came_meanwhile_is_not_replaced(bundle_copy, tmp_path, meanwhile):
    with pytest.raises(InputError), atomic_bundle(tmp_path / "b", force=meanwhile == "notes") as partial:
        fill(partial)
        shutil.copytree(bundle_copy, tmp_path / "b")
        if meanwhile == "notes":
            (tmp_path / "b/notes.txt").touch()
    assert (tmp_path / "b" / GOLDEN).exists()


def test_the_current_directory_is_not_replaced(tmp_path, monkeypatch):
    (tmp_path / "a/b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a/b")
    for path in (Path(), Path(".."), tmp_path / "a/b"):
        with pytest.raises(InputError, match=r"current directory|not of a bundle"):
            check_destination(path, force=True)


def test_a_bundle_cannot_be_written_below_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is not a directory"):
        check_destination(tmp_path / "file/deep/b", force=False)


def test_an_artifact_that_was_changed_is_told(bundle_copy):
    opened = Bundle(bundle_copy)
    for artifact in opened.manifest.exported:
        opened.check_unchanged(artifact)
        check_unchanged(bundle_copy / artifact.path)
    (bundle_copy / "model.onnx").write_bytes(b"other")
    with pytest.raises(InputError, match=r"model\.onnx is not the file that was exported"):
        opened.check_unchanged(opened.find("onnx"))
    with pytest.raises(InputError, match=r"model\.onnx is not the file that was exported"):
        check_unchanged(bundle_copy / "model.onnx")
    check_unchanged(bundle_copy / "model.torchscript")
    (bundle_copy / "model.onnx").unlink()
    with pytest.raises(InputError, match=r"model\.onnx is missing"):
        opened.check_unchanged(opened.find("onnx"))


def test_a_bundle_that_was_exported_anew_since_it_was_opened_is_told(bundle_copy):
    opened = Bundle(bundle_copy)
    (bundle_copy / "model.onnx").write_bytes(b"other")
    Bundle(bundle_copy).update(artifacts=(Artifact.of(bundle_copy / "model.onnx", "onnx"),))
    with pytest.raises(InputError, match="exported again since it was opened; open it again"):
        opened.check_unchanged(opened.find("onnx"))


def test_files_of_no_bundle_are_not_held_against_any(bundle_copy, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"other")
    check_unchanged(tmp_path / "model.onnx")
    (tmp_path / MANIFEST).write_text('{"name": "a browser extension"}')
    check_unchanged(tmp_path / "model.onnx")
    (bundle_copy / "mine.onnx").write_bytes(b"other")
    check_unchanged(bundle_copy / "mine.onnx")


def test_a_manifest_of_countless_artifacts_is_refused(bundle_copy):
    manifest = json.loads((bundle_copy / MANIFEST).read_text(encoding="utf-8"))
    edit(bundle_copy, artifacts=manifest["artifacts"] * 1000)
    with pytest.raises(InputError, match="lists 2,00. artifacts, as no export does"):
        Bundle(bundle_copy)
