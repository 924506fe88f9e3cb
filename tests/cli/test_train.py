"""`lstm-deploy train` as a user meets it: every task to the end, bad input, several processes."""

import csv
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import COMMAND, QUICK, fails, run

import lstm_deploy
from lstm_deploy.exporters.precision.evaluation_data import evaluation_data
from lstm_deploy.training import checkpoint


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write_reviews(path: str = "reviews.csv", rows: int = 90) -> None:
    words = {"good": "a fine, great film", "bad": "poor and awful", "so-so": "it was, well, a film"}
    with Path(path).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        labels = sorted(words)
        writer.writerows((f"{words[labels[row % 3]]} {'indeed ' * (row % 5)}", labels[row % 3]) for row in range(rows))


@pytest.mark.parametrize(
    ("words", "name", "metric"),
    [
        (["--data", "sine", "--task", "forecast", "--rows", "300"], "sine", "rmse"),
        (["reviews.csv", "--task", "classify", "--embedding-size", "4"], "reviews", "accuracy"),
    ],
)
def test_int8_is_measured_on_what_training_held_out(words, name, metric):
    write_reviews()
    found = json.loads(run("train", *words, *QUICK, "--json")[0])
    assert found["checkpoint"] == f"{name}.safetensors"
    for plot in found["plots"].values():
        assert Path(plot).read_bytes().startswith(b"\x89PNG")
    run("export", f"{name}.safetensors", "--format", "onnx", "--quantize", "int8", "--max-metric-loss", "100%")
    manifest = json.loads(Path(f"exported/{name}/manifest.json").read_text(encoding="utf-8"))
    (evidence,) = (each["evidence"] for each in manifest["artifacts"] if each["evidence"])
    assert evidence["data"].startswith("the held-out part of")
    assert evidence["metric_float32"] == pytest.approx(found["metrics"][metric], rel=1e-3)


def test_labels_and_bytes_are_told_by_a_bundle(text):
    write_reviews()
    run("train", "reviews.csv", "--task", "classify", "--embedding-size", "4", *QUICK)
    run("export", "reviews.safetensors", "--format", "onnx")
    Path("lines.txt").write_text("a great film\nawful\n")
    told = run("run", "exported/reviews", "--input", "lines.txt")[0]
    assert len(told.splitlines()) == 2
    Path("more.csv").write_text("label,text\ngood,a great film\n,awful\n")
    assert run("run", "exported/reviews", "--input", "more.csv")[0] == told
    Path("lines.csv").write_text("a great film\nawful\n")
    out, err = run("run", "exported/reviews", "--input", "lines.csv")
    assert out == told
    assert "lines.csv has no column 'text', so each line is a text" in err
    inspected = run("inspect", "reviews.safetensors")[0]
    assert "text column" not in inspected
    assert "classify into " in inspected
    run("train", text, "--task", "lm", "--unit", "byte", "--embedding-size", "4", "-o", "bytes.safetensors", *QUICK)
    run("export", "bytes.safetensors", "--format", "onnx")
    out, _ = run("run", "exported/bytes", "--prompt", "Größe", "--steps", "20", "--temperature", "1")
    assert out.startswith("Größe")


def test_a_gru_goes_from_a_text_to_a_bundle_and_back(text):
    words = ["--task", "lm", "--cell", "gru", "--embedding-size", "4", "-o", "m.safetensors"]
    assert json.loads(run("train", text, *words, *QUICK, "--json")[0])["options"]["cell"] == "gru"
    assert "cell gru" in run("inspect", "m.safetensors")[0]
    run("export", "m.safetensors", "-o", "m", "--format", "onnx", "--format", "torchscript")
    assert "Network with GRU(" in run("inspect", "m")[0]
    assert "checks passed" in run("validate", "m")[0]
    told = [run("run", "m", "--prompt", "the", "--steps", "20", "--runtime", of)[0] for of in ("onnx", "torchscript")]
    assert told[0] == told[1]
    assert told[0].startswith("the")
    run("export", "m/model.torchscript", "-o", "again", "--format", "onnx")
    assert Path("again/model.onnx").read_bytes() == Path("m/model.onnx").read_bytes()


def test_a_horizon_is_told_in_one_call(prices):
    run(
        "train", prices, "--task", "forecast", "--target", "close,open", "--horizon", "5", "-o", "h.safetensors", *QUICK
    )
    run("export", "h.safetensors", "-o", "h")
    out, _ = run("run", "h", "--input", prices)
    lines = out.strip().splitlines()
    assert lines[0] == "step,close,open"
    assert [line.partition(",")[0] for line in lines[1:]] == ["1", "2", "3", "4", "5"]
    assert all(200 < float(cell) < 800 for line in lines[1:] for cell in line.split(",")[1:])
    assert run("run", "h", "--input", prices, "--steps", "2")[0].strip().splitlines() == lines[:3]
    assert "the next 5 steps and none after them" in fails("run", "h", "--input", prices, "--steps", "6")
    line = f"tail -n 25 '{prices}' | cut -d, -f 2-5 | {' '.join(COMMAND)} run h --stream | tail -n 1"
    piped = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True).stdout
    told = [float(cell) for row in lines[1:] for cell in row.split(",")[1:]]
    np.testing.assert_allclose([float(cell) for cell in piped.split(",")], told, rtol=1e-4)


def test_vectors_are_read_and_what_they_cover_is_told():
    write_reviews()
    Path("v.txt").write_text("great 1 2 3\nawful -1 -2 -3\nfilm 0 0 1\n")
    words = ["reviews.csv", "--task", "classify", "--vectors", "v.txt", "--freeze-vectors", "--pooling", "attention"]
    _, err = run("train", *words, *QUICK)
    assert "3 of 4 entries of the vocabulary have a vector." in err
    assert checkpoint.read_spec(Path("reviews.safetensors")).task.vocabulary[0] == "<unk>"


def test_a_search_is_told_as_a_table_and_its_winner_trained_in_full():
    words = ["--data", "sine", "--rows", "200", "--task", "forecast", "--epochs", "3", "--search", "3"]
    words += ["--range", "hidden-size=2,4", "--range", "learning-rate=1e-4..1e-2:log"]
    out, _ = run("train", *words)
    assert out.splitlines()[0] == "Trials of the search, the best first"
    assert "learning-rate" in out.splitlines()[1]
    options = checkpoint.read_spec(Path("sine.safetensors")).training["options"]
    assert options["epochs"] == 3
    out, _ = run("train", *words[:-4], *words[-4:], "--resume", "--json")
    found = json.loads(out)
    assert len(found["search"]) == 3
    assert found["options"] == options


@pytest.mark.skipif(os.name == "nt", reason="two processes of PyTorch on one Windows machine need another backend")
def test_two_processes_learn_as_one_does_with_doubled_batches(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # of CPUs there are two everywhere
    on_cpus = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    words = ["--data", "sine", "--task", "forecast", "--epochs", "2", "--hidden-size", "4"]
    two = [*words, "--batch-size", "8", "--devices", "2", "--strategy", "ddp", "-o", "two.safetensors", "--json"]
    command = [*COMMAND, "train", *two]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240, env=on_cpus)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["epochs"] == 2  # one document, of one of the processes
    run("train", *words, "--batch-size", "16", "-o", "one.safetensors")
    logs = [np.genfromtxt(f"{name}.training/log.csv", delimiter=",", names=True) for name in ("one", "two")]
    for column in ("train_loss", "validation_loss", "step"):
        np.testing.assert_allclose(*(log[column] for log in logs), rtol=1e-5)


BAD = {
    "a.csv": "a,b\n" + "\n".join(f"{n},{n * n % 7}" for n in range(60)),
    "text.csv": "a,b\n1,x\n2,3\n",
    "one.csv": "a,b\n1,2\n",
    "constant.csv": "a,b\n" + "\n".join(f"3,{n % 5}" for n in range(60)),
    "nan.csv": "a,b\n" + "\n".join(f",{n % 5}" for n in range(60)),
    "dates.csv": "date,a\n2024-01-02,1\n2024-01-03,2\n2024-01-01,3\n",
    "gaps.csv": "a,b\n" + "\n".join(f"{n if n % 3 else ''},{n * n % 7}" for n in range(60)),
    "empty.csv": "",
    "rare.csv": "text,label\n" + "a b,x\n" * 9 + "c d,y\n",
    "single.csv": "text,label\n" + "a b,x\n" * 9,
    "short.txt": "abc",
}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("a.csv", "Missing --task; give"),
        ("--task forecast", "Missing DATA; name a file to learn from, or generate a series with --data"),
        ("a.csv --data sine --task forecast", "both given; leave out one of them"),
        ("--data cosine --task forecast", "--data cannot be 'cosine'; did you mean 'sine'?"),
        (
            "a.csv --rows 9 --task forecast --target a",
            "--rows has no effect without --data; add that, or leave --rows out",
        ),
        ("--data sine --task forecast --target y", "--target has no effect with --data"),
        ("--data sine --task lm", "--data has no effect for --task lm"),
        ("gone.csv --task forecast", "does not exist"),
        (". --task forecast", "is a directory"),
        (". --task classify", "is a directory"),
        ("empty.csv --task forecast", "is empty"),
        ("empty.csv --task classify", "is empty"),
        ("a.csv --task forecast --target c", "a.csv has no column 'c'; choose from a, b"),
        ("a.csv --task forecast --target b --features a", "'b' is not among the features (--features adds it)"),
        ("a.csv --task forecast --target a --features a,c", "no column 'c'"),
        ("text.csv --task forecast --target b --features a,b", "is 'x', not a number"),
        ("one.csv --task forecast --target a", "1 row(s) are too few"),
        ("constant.csv --task forecast --target a --features a,b", "'a' is constant in the training part"),
        ("nan.csv --task forecast --target a --features a,b", "'a' of nan.csv has no value"),
        ("dates.csv --task forecast --target a", "out of order"),
        ("gaps.csv --task forecast --target a --missing refuse", "has 20 missing value(s); choose another --missing"),
        ("a.csv --task classify", "has no column of texts"),
        ("a.csv --task classify --text-column a --label-column c", "no column 'c'"),
        ("rare.csv --task classify", "Label 'y' has 1 row(s)"),
        ("single.csv --task classify", "All texts have the label 'x'"),
        ("rare.csv --task classify --vectors gone.txt", "does not exist"),
        ("rare.csv --task classify --freeze-vectors", "--freeze-vectors has no effect without --vectors"),
        (
            "rare.csv --task classify --vectors short.txt --embedding-size 3",
            "--embedding-size has no effect with --vectors",
        ),
        ("short.txt --task lm", "too few"),
        ("a.csv --task forecast --target a --resume", "to resume from"),
        ("a.csv --task forecast --target a --resume --force", "leave out one of them"),
        ("a.csv --task forecast --target a --range dropout=0..1", "--range has no effect without --search"),
        ("a.csv --task forecast --target a --search 3 --range colour=0..1", "not an option to search"),
        (
            "a.csv --task forecast --target a --search 3 --range hidden-size=0..4",
            "--hidden-size cannot be 0; it",
        ),
        ("a.csv --task forecast --target a --cell rnn --proj-size 2", "RNN has no projection; leave out --proj-size"),
        (
            "a.csv --task forecast --target a --search 3 --range cell=gru,conv",
            "--cell cannot be 'conv'; choose",
        ),
        (
            "a.csv --task forecast --target a --search 3 --range optimizer=adam,lion",
            "--optimizer cannot be 'lion'; choose",
        ),
        ("a.csv --task forecast --target a --search 3 --validation 0", "--validation above 0"),
        ("a.csv --task forecast --target a --search 3 --devices 2", "one device"),
        ("a.csv --task forecast --target a -o gone/../m.txt", "must end in .safetensors"),
        ("a.csv --task forecast --target a --season 99", "longer than the training part"),
        ("a.csv --task forecast --target a --window-norm --batch-size 1", "--batch-size of 2"),
        (
            "a.csv --task forecast --target a --stride 99999999999",
            "99999999999; it must be at most 2147483648",
        ),
        (
            "a.csv --task forecast --target a --search 1 --range hidden-size=1,99999999",
            "--hidden-size cannot be 99999999; it must be at most",
        ),
        (
            "a.csv --task forecast --target a --search 1 --learning-rate 0.1 --layers 1 --hidden-size 2 --dropout 0",
            "name others with --range",
        ),
        (f"a.csv --task forecast --target a -o {'n' * 210}.safetensors", "too long"),
        ("a.csv --task forecast --target a --window 99", "smaller --window"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(words, message):
    for name, content in BAD.items():
        Path(name).write_text(content)
    before = sorted(os.listdir())
    assert message in fails("train", *words.split())
    assert sorted(os.listdir()) == before


def test_missing_values_are_dealt_with_as_asked():
    Path("gaps.csv").write_text(BAD["gaps.csv"])
    said = {}
    for how in ("previous", "interpolate", "drop"):
        words = ["gaps.csv", "--task", "forecast", "--target", "b", "--window", "4", "--missing", how, "--force"]
        said[how] = run("train", *words, *QUICK)[1]
    assert "take the latest value before them" in said["previous"]
    assert "lie on the line to the next one" in said["interpolate"]
    assert "20 row(s) with missing values are left out" in said["drop"]


def test_a_loss_that_is_no_number_ends_with_the_step_and_what_to_try():
    words = ["--data", "sine", "--task", "forecast", "--learning-rate", "1e30", "--epochs", "5", "--hidden-size", "4"]
    error = fails("train", *words, code=1)
    assert "at step" in error
    assert "smaller --learning-rate" in error
    assert not Path("sine.safetensors").exists()


def test_a_search_that_goes_on_trains_another_winner_anew():
    words = [
        "--data",
        "sine",
        "--rows",
        "150",
        "--task",
        "forecast",
        "--window",
        "5",
        "--hidden-size",
        "2",
        "--epochs",
        "2",
    ]
    words += ["--search-epochs", "1", "--layers", "1", "--range", "learning-rate=1e-7..5e-2:log"]
    winners = set()
    for trials in ("1", "4", "8"):
        found = json.loads(run("train", *words, "--search", trials, "--resume", "--json")[0])
        assert len(found["search"]) == int(trials)
        assert found["options"]["learning_rate"] == found["search"][0]["chosen"]["learning_rate"]
        winners.add(found["options"]["learning_rate"])
    assert len(winners) > 1


def test_force_leaves_the_state_where_the_input_is_wrong():
    run("train", "--data", "sine", "--task", "forecast", *QUICK)
    before = Path("sine.training/last.ckpt").read_bytes()
    fails("train", "gone.csv", "--task", "forecast", "-o", "sine.safetensors", "--force")
    assert Path("sine.training/last.ckpt").read_bytes() == before


def test_a_classifier_of_texts_in_an_archive_is_measured_and_timed():
    words = np.array(["a great film", "an awful film"] * 20)
    np.savez("films.npz", text=words, label=np.array(["good", "bad"] * 20))
    run("train", "films.npz", "--task", "classify", "--embedding-size", "4", *QUICK)
    run("export", "films.safetensors")
    training = checkpoint.read_spec(Path("films.safetensors")).training
    given = evaluation_data(lstm_deploy.open("exported/films").signature, None, training)
    assert (given.description, given.metric) == ("the held-out part of films.npz", "accuracy")
    assert sum(map(len, given.truth)) == 8
    bench = ["--rounds", "9", "--no-roofline", "--batch", "1", "--scenario", "sequence", "--seq-len", "5"]
    out, _ = run("bench", "exported/films", *bench, "--scope", "end_to_end,resident", "--baseline", "floor")
    assert "torchscript" in out


def test_a_stopped_training_is_not_overwritten_unasked():
    words = ["--data", "sine", "--task", "forecast", *QUICK]
    run("train", *words)
    assert "already exists; replace it with --force" in fails("train", *words)
    Path("sine.safetensors").unlink()
    assert "continue it with --resume, or start over with --force" in fails("train", *words)
    run("train", *words, "--resume")
    run("train", *words, "--force")


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (".", "must end in .safetensors"),
        ("", "must end in .safetensors"),
        ("..", "must end in .safetensors"),
        ("folder.safetensors", "is a directory"),
        ("file/x.safetensors", "file is not a directory"),
        ("file/deep/x.safetensors", "file is not a directory"),
        ("data.safetensors", "is the file that is read"),
        ("link/../data.safetensors", "is the file that is read"),
    ],
)
def test_an_output_that_cannot_be_written_is_told_before_the_training(output, message, monkeypatch):
    Path("folder.safetensors").mkdir()
    Path("link").mkdir()
    Path("file").touch()
    Path("data.safetensors").write_text("a text " * 500)
    monkeypatch.setattr("lstm_deploy.training.train", None)
    assert message in fails("train", "data.safetensors", "--task", "lm", "-o", output, "--force", *QUICK)
    assert Path("data.safetensors").read_text() == "a text " * 500


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with a name")
def test_a_pipe_with_a_name_cannot_be_trained_on(monkeypatch):
    os.mkfifo("pipe.txt")
    writer = subprocess.Popen(["sh", "-c", "yes 'a text' | head -c 3000 > pipe.txt"])
    assert "pipe.txt is not a file that can be read twice" in fails("train", "pipe.txt", "--task", "lm", *QUICK)
    writer.wait()
