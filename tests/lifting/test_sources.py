"""The five systems, written and saved as their authors would, through one command each."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import authors
import numpy as np
import onnxruntime as ort
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import lstm_deploy
from lstm_deploy.errors import InputError
from lstm_deploy.lifting.calling import flatten
from lstm_deploy.lifting.execution import StayOnCPU
from lstm_deploy.lifting.sources import Origin, load, save_module

FILE = Path(authors.__file__)
SHAPES = [(1, 1), (1, 7), (3, 1), (3, 50)]
ATTENTION = {"input_dim": 7, "hidden": 32, "layers": 3, "bidirectional": True, "attention": True}
SYSTEMS = {
    "sine": ("SineLSTM", {}, {"x": "float32[batch,seq,1]"}),
    "practitioner": ("Practitioner", {"input_dim": 7, "hidden": 32, "layers": 2}, None),
    "attention": ("Practitioner", ATTENTION, None),
    "text": ("TextClassifier", {}, {"tokens": "int64[batch,seq]"}),
    "stock": ("Stock", {}, None),
    "characters": ("CharLSTM", {"V": 20, "H": 16}, None),
}


def assert_equal_to_the_author(network, bundle, shapes=SHAPES):
    """y, h and c from zeros, from the author's own forward, within 1e-5 of the largest."""
    session = ort.InferenceSession(bundle.path / "model.onnx", providers=["CPUExecutionProvider"])
    spec = bundle.signature.inputs[0]
    for batch, seq in shapes:
        shape = spec.sized({"batch": batch, "seq": seq})
        x = torch.randint(0, 20, shape) if spec.dtype == "int64" else torch.randn(shape)
        state = bundle.signature.initial_state(batch)
        outputs = dict(
            zip(bundle.signature.output_names, session.run(None, {spec.name: x.numpy(), **state}), strict=True)
        )
        lstm = next(child for child in network.modules() if isinstance(child, nn.LSTM))
        finals = []
        hook = lstm.register_forward_hook(lambda _, __, result, finals=finals: finals.extend(result[1]))
        with torch.no_grad(), StayOnCPU():
            given = (x, network.init_hidden(batch)) if hasattr(network, "init_hidden") else (x,)
            y = flatten(network(*given))[0][1]
        hook.remove()
        for name, expected in (("y", y), ("h_out", finals[0]), ("c_out", finals[1])):
            difference = np.abs(outputs[name] - expected.numpy()).max()
            assert difference <= 1e-5 * max(1, expected.abs().max()), (name, batch, seq)


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_system_exports_from_its_authors_file(tmp_path, name):
    class_name, init, inputs = SYSTEMS[name]
    torch.manual_seed(1)
    network = getattr(authors, class_name)(**init).eval()
    torch.save({"model_state": network.state_dict(), "optimizer": {"lr": 0.1}}, tmp_path / "m.pth")
    bundle = lstm_deploy.export(
        tmp_path / "m.pth", tmp_path / "b", model=f"{FILE}:{class_name}", init=init, inputs=inputs
    )
    assert_equal_to_the_author(network, bundle)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_pickled_module_over_a_fixed_window_exports_when_trusted(tmp_path, bidirectional):
    """Saved by a script, so that its class is looked for in `__main__`."""
    code = f"import torch; exec(open({str(FILE)!r}).read()); torch.manual_seed(1); m = Window({bidirectional}).eval(); "
    code += "m.BN.running_mean += 3; torch.save(m, 'w.pth'); torch.save(m.state_dict(), 'w.pt')"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    with pytest.raises(InputError, match="--trust-pickle"):
        lstm_deploy.export(tmp_path / "w.pth", tmp_path / "b")
    bundle = lstm_deploy.export(
        tmp_path / "w.pth",
        tmp_path / "b",
        model=f"{FILE}:Window",
        trust_pickle=True,
        inputs={"x": "float32[batch,seq]"},
    )
    (fixed,) = bundle.signature.fixed
    assert (fixed.name, fixed.size) == ("seq", 10)
    assert "10" in fixed.reason
    network = authors.Window(bidirectional).eval()
    network.load_state_dict(torch.load(tmp_path / "w.pt"))
    assert_equal_to_the_author(network, bundle, [(1, 10), (3, 10)])


def test_bare_weights_are_their_own_reference_later(tmp_path):
    torch.save(authors.Stock().state_dict(), tmp_path / "stock.pt")
    bundle = lstm_deploy.export(tmp_path / "stock.pt", tmp_path / "b")
    assert bundle.manifest.source.kind == "weights"
    assert any("no activation" in finding for finding in bundle.manifest.findings)
    report = lstm_deploy.validate(bundle)
    assert report.passed
    assert "stock.pt" in report.reference


def test_a_users_code_is_never_run_because_a_manifest_names_it(tmp_path, monkeypatch):
    """A bundle may come from anyone; only what the user says is imported."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(FILE.read_text() + "\nimport pathlib\npathlib.Path('imported').touch()\n")
    torch.save(authors.Stock().state_dict(), tmp_path / "m.pt")
    bundle = lstm_deploy.export(
        tmp_path / "m.pt", tmp_path / "b", model=f"{tmp_path / 'net.py'}:Stock", formats=["onnx"]
    )
    Path("imported").unlink()
    assert lstm_deploy.validate(bundle).reference == "golden trace"
    assert not Path("imported").exists()
    origin = Origin(path=tmp_path / "m.pt", model=f"{FILE}:Stock")
    assert "m.pt" in lstm_deploy.validate(bundle, reference=origin).reference


def test_a_class_in_a_package_is_found(tmp_path, monkeypatch):
    torch.save(authors.Stock().state_dict(), tmp_path / "m.pt")
    loaded = load(Origin(path=tmp_path / "m.pt", model="authors:Stock"))
    assert loaded.source.summary.startswith("Stock with")


@pytest.mark.parametrize(
    ("origin", "message"),
    [
        ({"model": "nowhere.py:Net"}, "does not exist"),
        ({"model": "no.such.package:Net"}, "cannot be imported"),
        ({"model": "Net"}, "FILE.py:Class"),
        ({"model": f"{FILE}:Nothing"}, "has no class 'Nothing'; choose from CharLSTM"),
        ({"model": f"{FILE}:Practitioner"}, "--init"),
        ({"model": f"{FILE}:Stock", "init": {"width": 3}}, "--init"),
        ({"model": f"{FILE}:CharLSTM"}, "do not fit"),
        ({"model": f"{FILE}:SineLSTM", "init": {"input_size": 4, "hidden_size": 32, "num_layers": 2}}, "missing"),
        ({"model": "json:loads"}, "--init"),
        ({"weights_key": "ema"}, "no entry 'ema'"),
        ({"inputs": (lstm_deploy.TensorSpec.parse("x:float32[batch,seq,9]"),)}, "does not run"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_with_the_reason(tmp_path, origin, message):
    torch.save(authors.Stock().state_dict(), tmp_path / "m.pt")
    with pytest.raises(InputError, match=message):
        load(Origin(path=tmp_path / "m.pt", **origin))


def test_weights_that_belong_to_no_part_of_the_class_are_left_out_and_reported(tmp_path):
    """As in a published speaker encoder, whose file also has the scale of its loss."""
    torch.save({**authors.Stock().state_dict(), "loss_scale": torch.ones(1)}, tmp_path / "m.pt")
    for origin in (Origin(path=tmp_path / "m.pt", model=f"{FILE}:Stock"), Origin(path=tmp_path / "m.pt")):
        assert any("loss_scale" in finding and "not used" in finding for finding in load(origin).findings)


def test_a_users_error_is_reported_with_its_line(tmp_path):
    (tmp_path / "net.py").write_text("import torch\n\nraise RuntimeError('not today')\n")
    torch.save(authors.Stock().state_dict(), tmp_path / "m.pt")
    with pytest.raises(InputError, match=r"not today, at .*net\.py:3"):
        load(Origin(path=tmp_path / "m.pt", model=f"{tmp_path / 'net.py'}:Net"))


def test_tokens_cover_the_whole_embedding():
    spec = load_text().lifted.signature.inputs[0]
    assert (spec.low, spec.high) == ((0,), (99,))


def load_text():
    from lstm_deploy.lifting.sources import load_module

    return load_module(authors.TextClassifier().eval(), [lstm_deploy.TensorSpec.parse("tokens:int64[batch,seq]")])


@pytest.mark.parametrize("kind", ["forecast", "language model", "tokens", "embedding", "GRU", "RNN"])
def test_a_torchscript_file_of_ours_is_a_source_again(tmp_path, kind, request):
    """From weights and contract, not from its code: the result is the original's, bit for bit."""
    if kind == "forecast":
        first = lstm_deploy.Bundle(request.getfixturevalue("forecast_bundle"))
    elif kind == "language model":
        first = lstm_deploy.Bundle(request.getfixturevalue("lm_bundle"))
    else:
        embedding = {"emb.weight": torch.randn(7, 4)} if kind == "embedding" else {}
        layer = getattr(nn, kind if kind in ("GRU", "RNN") else "LSTM")(4, 5, 2, bidirectional=True)
        weights = {**layer.state_dict(prefix="rnn."), **embedding}
        torch.save({**weights, **nn.Linear(10, 3).state_dict(prefix="out.")}, tmp_path / "m.pt")
        inputs = {"x": "int64[seq,batch]"} if kind == "tokens" else None
        first = lstm_deploy.export(tmp_path / "m.pt", tmp_path / "first", inputs=inputs)
    again = lstm_deploy.export(first.path / "model.torchscript", tmp_path / "again")
    assert again.signature == first.signature
    assert again.manifest.parity.passed
    assert lstm_deploy.validate(again).reference != "golden trace"
    spec = first.signature.inputs[0]
    shape = spec.sized({"batch": 2, "seq": 9})
    x = np.random.default_rng(0).uniform(0, 4, shape).astype(spec.dtype)
    outputs = [lstm_deploy.open(bundle.path).run({spec.name: x}) for bundle in (first, again)]
    for name, value in outputs[0].items():
        np.testing.assert_array_equal(outputs[1][name], value)


def test_a_torchscript_file_from_a_class_needs_the_class(tmp_path):
    torch.manual_seed(0)
    network = authors.TextClassifier().eval()
    first = lstm_deploy.export(network, tmp_path / "first", inputs={"tokens": "int64[batch,seq]"})
    archive = first.path / "model.torchscript"
    with pytest.raises(InputError, match="--model"):
        load(Origin(path=archive))
    loaded = load(Origin(path=archive, model=f"{FILE}:TextClassifier"))
    assert loaded.lifted.signature == first.signature
    assert all(value.equal(network.state_dict()[name]) for name, value in loaded.lifted.module.state_dict().items())


def test_a_contract_that_is_not_the_networks_is_refused(tmp_path, forecast_bundle):
    with zipfile.ZipFile(forecast_bundle / "model.torchscript") as old, zipfile.ZipFile(tmp_path / "m.pt", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, content.replace(b'"num_layers":2', b'"num_layers":1') if "contract" in name else content)
    with pytest.raises(InputError, match="contract"):
        load(Origin(path=tmp_path / "m.pt"))


def test_what_is_no_file_is_called_what_it_is(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.pt does not exist"):
        load(Origin(path=tmp_path / "nothing.pt"))
    for name in ("model.safetensors", "training_args.bin", "optimizer.pt", "config.json"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"is a folder; give the file of the weights, as model\.safetensors\."):
        load(Origin(path=tmp_path))
    (tmp_path / "nested/step10").mkdir(parents=True)
    for name in ("scaler.pt", "random_states_0.pkl", "step10/mp_rank_00_model_states.pt"):
        (tmp_path / "nested" / name).touch()
    with pytest.raises(
        InputError, match=r"a folder; give the file of the weights, as step10.mp_rank_00_model_states\.pt"
    ):
        load(Origin(path=tmp_path / "nested"))
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.pt")
        with pytest.raises(InputError, match="is a pipe or a device; save"):
            load(Origin(path=tmp_path / "pipe.pt"))


def test_sizes_that_no_machine_has_are_refused(tmp_path, forecast_bundle):
    """A checkpoint of ours that says it has 2**31 units."""
    source = lstm_deploy.Bundle(forecast_bundle).source_path
    with safe_open(source, framework="pt") as file:
        metadata = {
            key: re.sub(r'"hidden_size":\d+', f'"hidden_size":{2**31}', text) for key, text in file.metadata().items()
        }
        save_file({name: file.get_tensor(name) for name in file.keys()}, tmp_path / "m.safetensors", metadata)  # noqa: SIM118
    with pytest.raises(InputError, match="contradict"):
        load(Origin(path=tmp_path / "m.safetensors"))


@pytest.mark.parametrize(
    ("more", "option"),
    [
        ({"weights_key": "a"}, "--weights-key"),
        ({"inputs": (lstm_deploy.TensorSpec.parse("x:float32[batch,seq,4]"),)}, "--input"),
        ({"trust_pickle": True}, "--trust-pickle"),
        ({"state_policy": "carry"}, "--state-policy"),
    ],
)
def test_what_our_checkpoint_says_itself_is_not_said_again(forecaster, more, option):
    with pytest.raises(InputError, match=f"{option} has no effect on .*, which says itself what it is"):
        load(Origin(path=forecaster, **more))


def test_arguments_without_a_class_are_refused(tmp_path):
    torch.save(authors.Stock().state_dict(), tmp_path / "m.pt")
    with pytest.raises(InputError, match="--init has no effect without --model"):
        load(Origin(path=tmp_path / "m.pt", init={"hidden": 3}))
    torch.save(sys.modules["authors"].Stock(), tmp_path / "whole.pt")  # other tests import it anew
    with pytest.raises(InputError, match="--init has no effect with --trust-pickle"):
        load(Origin(path=tmp_path / "whole.pt", model=f"{FILE}:Stock", init={"hidden": 3}, trust_pickle=True))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"path": None}, "A path or a Bundle is needed"),
        ({"path": "m.pt", "model": authors.Stock}, "named by a text, not by the class Stock"),
        ({"path": "m.pt", "init": ["hidden"]}, "give the arguments of the class by name"),
        ({"path": "m.pt", "inputs": {"x": "float32[batch,seq,4]"}}, "give a tuple"),
    ],
)
def test_an_origin_of_wrong_parts_is_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        Origin(**wrong)


def test_a_bundle_is_no_source(forecast_bundle):
    with pytest.raises(InputError, match="is a bundle; give the checkpoint"):
        load(Origin(path=forecast_bundle))


def test_a_live_module_is_handed_to_other_processes(tmp_path):
    network = sys.modules["authors"].Stock().eval()  # other tests import it anew
    loaded = load(save_module(network, tmp_path), known_inputs=[lstm_deploy.TensorSpec.parse("x:float32[batch,seq,4]")])
    weights = loaded.lifted.module.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in network.state_dict().items())


class Unsaved(nn.LSTM):
    def __reduce__(self):
        raise TypeError("a lock cannot be saved")


def test_a_module_that_other_processes_cannot_load_is_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="cannot be handed to other processes .a lock cannot be saved.; give the file"):
        save_module(Unsaved(1, 2), tmp_path)
    monkeypatch.setattr(Unsaved, "__module__", "__main__")
    with pytest.raises(InputError, match="of a class of this script or notebook"):
        save_module(Unsaved(1, 2), tmp_path)
    with pytest.raises(InputError, match="not the class Unsaved; make an instance"):
        save_module(Unsaved, tmp_path)
