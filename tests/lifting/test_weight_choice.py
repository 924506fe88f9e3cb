"""Which weights are taken from the files of other frameworks, and what is said of the rest."""

import argparse
import pickle
import re
from pathlib import Path

import foreign_checkpoints as foreign
import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import save_file
from torch import nn

from lstm_deploy.errors import InputError
from lstm_deploy.lifting.sources import Origin, load
from lstm_deploy.lifting.weight_choice import read_weights
from lstm_deploy.lifting.weight_files import open_weights

HOME = "foreign_checkpoints"
OF_CLASS = {
    # framework: suffix, class, key, findings
    "lightning": (
        ".ckpt",
        foreign.Net,
        None,
        [r"not used: state_dict\.loss$", r"args \(argparse\.Namespace\)"],
    ),
    "hugging_face": (".safetensors", foreign.SpeechEncoder, None, []),
    "fairseq": (".pt", foreign.Net, None, [r"args \(argparse\.Namespace\)", r"val \(a NumPy number\)"]),
    "nemo": (".nemo", foreign.SpeechEncoder, None, []),
    "stable_baselines3": (".zip", foreign.Actor, None, [r"not used: policy\.lstm_critic, policy\.value_net$"]),
    "rsl_rl": (".pt", foreign.RecurrentModel, None, ["under actor_state_dict", "not used: critic_state_dict$"]),
    "clean_rl": (".pth", foreign.Net, None, ["under 0", "not used: 1, 2$"]),
    "deepspeed": (".pt", foreign.Net, None, []),
    "hydra": (".pt", foreign.Net, None, [r"cfg \(omegaconf\.dictconfig\.DictConfig\)"]),
    "averaged": (".pth", foreign.Net, None, ["those under state_dict; state_dict_ema would fit too"]),
    "ema_wrapper": (".pt", foreign.Net, "ema_model", ["not used: initted, step, online_model$"]),
}


def written(folder, framework, network, **form):
    path = folder / f"m{OF_CLASS.get(framework, ('.pt',))[0]}"
    getattr(foreign, framework)(path, network, **form)
    return path


def assert_loaded(loaded, network, prefix=""):
    weights = loaded.lifted.module.state_dict()
    for name, value in network.state_dict().items():
        expected = value.half().float() if loaded.source.path.endswith("half.pt") else value
        torch.testing.assert_close(weights[prefix + name], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("framework", OF_CLASS)
def test_a_class_finds_its_weights_and_the_rest_is_named(tmp_path, framework):
    _, kind, key, findings = OF_CLASS[framework]
    network = kind()
    path = written(tmp_path, framework, network.encoder if kind is foreign.SpeechEncoder else network)
    loaded = load(Origin(path=path, model=f"{HOME}:{kind.__name__}", weights_key=key))
    assert_loaded(loaded, network)
    for finding in findings:
        assert any(re.search(finding, each) for each in loaded.findings), loaded.findings


@pytest.mark.parametrize("framework", ["fairseq", "hydra", "averaged", "deepspeed", "nemo", "hugging_face"])
def test_one_network_is_found_without_its_class(tmp_path, framework):
    network = foreign.Net()
    path = written(tmp_path, framework, network)
    weights = read_weights(path)
    for name, value in network.state_dict().items():
        found = next(each for each in weights if each.endswith(name))
        torch.testing.assert_close(weights[found], value, rtol=1e-3, atol=1e-3)
    assert "LSTM(3, 4)" in " ".join(load(Origin(path=path)).findings)


@pytest.mark.parametrize(
    ("framework", "kind", "seen"),
    [
        ("lightning", foreign.Net, [r"net\.lstm: LSTM\(3, 4\)"]),
        ("stable_baselines3", foreign.Actor, ["2 LSTMs", "lstm_actor: LSTM", "lstm_critic: LSTM"]),
        ("rsl_rl", foreign.RecurrentModel, ["actor_state_dict with LSTM", "critic_state_dict with LSTM"]),
        ("clean_rl", foreign.Net, [r"0 with LSTM\(3, 4\)"]),
        ("ema_wrapper", foreign.Net, [r"online_model\.lstm: LSTM", r"ema_model\.lstm: LSTM"]),
    ],
)
def test_a_bare_file_of_several_networks_ends_with_what_it_holds_and_what_to_type(tmp_path, framework, kind, seen):
    """And what it says to type leads to an LSTM, in one step or two."""
    path = written(tmp_path, framework, kind())
    key = None
    for _ in range(2):
        with pytest.raises(InputError) as error:
            load(Origin(path=path, weights_key=key))
        if key is None:
            assert all(re.search(text, str(error.value)) for text in seen), error.value
        key = re.search(r" with --weights-key (\S+?)( \(or [^()]*\))?\.$", str(error.value))[1]
        try:
            loaded = load(Origin(path=path, weights_key=key))
        except InputError:
            continue
        assert [spec.input_size for spec in loaded.lifted.signature.recurrent] == [3]
        return
    pytest.fail("the second key leads nowhere")


@pytest.mark.parametrize("kind", ["GRU", "RNN"])
@pytest.mark.parametrize("module", [True, False])
@pytest.mark.parametrize(
    ("prefix", "wrapped"),
    [("", lambda w: w), ("", lambda w: {"state_dict": w}), ("module.", lambda w: {"model": w, "optimizer": {"lr": 1}}),
     ("model.", lambda w: {"state_dict": w, "epoch": 3})],
)  # fmt: skip
def test_weights_of_other_kinds_are_found_in_every_wrapping(tmp_path, kind, module, prefix, wrapped):
    network = nn.ModuleDict({"rnn": getattr(nn, kind if module else f"{kind}Cell")(3, 4), "fc": nn.Linear(4, 2)})
    torch.save(wrapped(foreign.renamed(network, prefix)), tmp_path / "m.pt")
    loaded = load(Origin(path=tmp_path / "m.pt"))
    assert loaded.source.summary == f"{kind}(3, 4), inferred from the weights"
    weights = loaded.lifted.module.state_dict()
    for name, value in network.rnn.state_dict(prefix=f"{kind.lower()}.").items():
        torch.testing.assert_close(weights[name if module else f"{name}_l0"], value)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("given", ["model-00001-of-00002.{}", "model.{}.index.json", ""])
@pytest.mark.parametrize("model", [None, f"{HOME}:Net"])
def test_files_that_a_network_is_split_into_are_joined_as_the_refusal_says(tmp_path, suffix, given, model, monkeypatch):
    network = foreign.Net()
    foreign.split(tmp_path, network, suffix)
    with pytest.raises(InputError, match="several|list of the files") as error:
        load(Origin(path=tmp_path / given.format(suffix), model=model))
    code, joined = re.search(r"join them, as in (.*), and give (\S+)\.$", str(error.value)).groups()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    eval(code, {"torch": torch, "safetensors": safetensors})
    assert_loaded(load(Origin(path=Path(joined), model=f"{HOME}:Net")), network)


def test_a_distributed_checkpoint_is_told_how_to_be_joined(tmp_path):
    for name in (".metadata", "__0_0.distcp"):
        (tmp_path / name).write_bytes(b"PK")
    for path in (tmp_path, tmp_path / "__0_0.distcp"):
        with pytest.raises(InputError, match=rf"format_utils dcp_to_torch {tmp_path} joined\.pt, and give joined\.pt"):
            load(Origin(path=path))


@pytest.mark.parametrize("key", ["_orig_mod.net", "net", "net._orig_mod"])
def test_a_key_may_have_the_wrappers_that_are_in_the_file(tmp_path, key):
    network = foreign.Net()
    torch.save(foreign.renamed(network, "_orig_mod.net."), tmp_path / "m.pt")
    assert_loaded(load(Origin(path=tmp_path / "m.pt", weights_key=key, model=f"{HOME}:Net")), network)
    for model in (None, f"{HOME}:Net"):
        assert "not used" not in " ".join(load(Origin(path=tmp_path / "m.pt", weights_key=key, model=model)).findings)
    with pytest.raises(InputError, match="no entry 'x'; there is net"):
        load(Origin(path=tmp_path / "m.pt", weights_key="x"))


def test_a_part_says_what_is_left(tmp_path):
    path = written(tmp_path, "stable_baselines3", foreign.Actor())
    findings = " ".join(load(Origin(path=path, weights_key="policy.lstm_actor")).findings)
    assert "policy.lstm_actor is an LSTM(3, 4)" in findings
    assert "policy.action_net" in findings
    assert "weights in the file that are not used" in findings


def test_two_copies_that_fit_a_class_are_not_chosen_between(tmp_path):
    path = written(tmp_path, "ema_wrapper", foreign.Net())
    with pytest.raises(InputError, match=r"fit under online_model, ema_model; .* --weights-key"):
        load(Origin(path=path, model=f"{HOME}:Net"))
    torch.save({"actor": foreign.Net().state_dict(), "critic": foreign.Net().state_dict()}, path)
    with pytest.raises(InputError, match="fit under actor, critic"):
        load(Origin(path=path, model=f"{HOME}:Net"))


def test_two_copies_of_another_network_are_not_said_to_fit(tmp_path):
    for part in (nn.ModuleDict({"lstm": nn.LSTM(3, 4)}), nn.ModuleDict({"lstm": nn.LSTM(5, 7), "fc": nn.Linear(7, 3)})):
        torch.save({"actor": part.state_dict(), "critic": part.state_dict()}, tmp_path / "m.pt")
        with pytest.raises(InputError, match="names of the class under actor, critic, but not all of its weights"):
            load(Origin(path=tmp_path / "m.pt", model=f"{HOME}:Net"))


@pytest.mark.parametrize("entry", ["closed_loop_model", "optimal_policy", "scheduling_net", "learning_net"])
def test_a_network_is_not_taken_for_the_state_of_a_training(tmp_path, entry):
    torch.save({entry: foreign.Net().state_dict(), "optimizer": foreign.optimizer_of(foreign.Net())}, tmp_path / "m.pt")
    assert f"the weights are those under {entry}" in load(Origin(path=tmp_path / "m.pt")).findings


@pytest.mark.parametrize(
    "entry",
    ["optimizer", "optimizerD_state_dict", "last_optimizer_state", "optim", "g_opt", "policy.optimizer", "rng_state",
     "lr_schedulers", "callbacks", "torch_rng_state"],
)  # fmt: skip
def test_the_state_of_a_training_is_left_out_without_a_word(tmp_path, entry):
    torch.save({"model": foreign.Net().state_dict(), entry: {"a": torch.ones(3)}}, tmp_path / "m.pt")
    assert entry not in " ".join(load(Origin(path=tmp_path / "m.pt")).findings)


def test_a_copy_that_a_callback_keeps_is_named(tmp_path):
    content = {"state_dict": foreign.Net().state_dict(), "callbacks": {"Averaging": foreign.Net().state_dict()}}
    torch.save(content, tmp_path / "m.ckpt")
    found = " ".join(load(Origin(path=tmp_path / "m.ckpt")).findings)
    assert "callbacks.Averaging holds LSTM(3, 4)" in found


@pytest.mark.parametrize("form", ["zip", "tar", "gz"])
def test_files_of_an_archive_are_told_apart_by_their_names(tmp_path, form):
    """Also those of the same name, and beside what macOS adds."""
    files = {"one/model.pt": foreign.Net(), "two/model.pt": foreign.Net(), "two/other.pt": foreign.Net()}
    path = foreign.archive_of(tmp_path / "m.nemo", form, files)
    with pytest.raises(InputError, match=r"one/model with LSTM.*, two/model with LSTM.*, two/other with LSTM"):
        load(Origin(path=path))
    for name, network in files.items():
        key = name.removesuffix(".pt")
        assert_loaded(load(Origin(path=path, weights_key=key, model=f"{HOME}:Net")), network)


@pytest.mark.parametrize("form", ["pickle", "pt", "npz"])
def test_weights_that_are_numpy_arrays_are_called_so(tmp_path, form):
    arrays = {name: value.numpy() for name, value in foreign.Net().state_dict().items()}
    path = tmp_path / f"m.{form}"
    match form:
        case "pickle":
            path.write_bytes(pickle.dumps(arrays))
        case "pt":
            torch.save({"model": arrays}, path)
        case "npz":
            np.savez(path, **arrays)
    with pytest.raises(InputError, match=r"NumPy arrays.*save them with torch\.save, as a dict of tensors"):
        load(Origin(path=path))


@pytest.mark.parametrize(
    ("key", "what"), [("cfg", r"'cfg' \(argparse\.Namespace\)"), ("epoch", "'epoch'"), ("x", "'x'")]
)
def test_a_key_without_weights_is_told_the_keys_that_have_some(tmp_path, key, what):
    content = {"cfg": argparse.Namespace(a=1), "epoch": 3, "actor": foreign.Net().state_dict()}
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(InputError, match=rf"no .*{what}.*; there is actor\."):
        load(Origin(path=tmp_path / "m.pt", weights_key=key))


def test_a_copy_of_other_sizes_is_not_taken_for_the_class(tmp_path):
    network, other = foreign.RecurrentModel(), foreign.RecurrentModel(5, 1)
    torch.save({"a": other.state_dict(), "b": network.state_dict()}, tmp_path / "m.pt")
    loaded = load(Origin(path=tmp_path / "m.pt", model=f"{HOME}:RecurrentModel"))
    assert_loaded(loaded, network)


def test_parts_that_were_saved_apart_are_put_together_by_their_class(tmp_path):
    network = foreign.Net()
    torch.save({"lstm": network.lstm.state_dict(), "fc": network.fc.state_dict()}, tmp_path / "m.pt")
    assert_loaded(load(Origin(path=tmp_path / "m.pt", model=f"{HOME}:Net")), network)


@pytest.mark.parametrize("place", ["model._orig_mod.", "module.", "_net.", "a.b.c."])
def test_a_class_is_found_under_any_prefix(tmp_path, place):
    network = foreign.Net()
    torch.save({"state_dict": foreign.renamed(network, place)}, tmp_path / "m.pt")
    assert_loaded(load(Origin(path=tmp_path / "m.pt", model=f"{HOME}:Net")), network)


def test_a_wrapper_inside_the_network_is_taken_off(tmp_path):
    """As when only the LSTM was compiled, or wrapped by FSDP."""
    network = foreign.Net()
    weights = {name.replace("lstm.", "lstm._orig_mod."): value for name, value in network.state_dict().items()}
    torch.save(weights, tmp_path / "m.pt")
    assert_loaded(load(Origin(path=tmp_path / "m.pt", model=f"{HOME}:Net")), network)
    assert "lstm is an LSTM(3, 4)" in load(Origin(path=tmp_path / "m.pt")).findings


def test_nan_in_weights_that_are_not_used_is_no_matter(tmp_path):
    torch.save(
        {"model": foreign.Net().state_dict(), "ema": {"lstm.weight_hh_l0": torch.tensor(torch.nan)}}, tmp_path / "m.pt"
    )
    load(Origin(path=tmp_path / "m.pt", model=f"{HOME}:Net"))
    load(Origin(path=tmp_path / "m.pt"))


@pytest.mark.filterwarnings("ignore:torch")  # that quantization moves to another package
@pytest.mark.parametrize("model", [None, f"{HOME}:Net"])
@pytest.mark.parametrize("layers", [{nn.LSTM, nn.Linear}, {nn.Linear}])
def test_quantized_weights_are_called_so(tmp_path, model, layers):
    path = written(tmp_path, "quantized", foreign.Net(), layers=layers)
    with pytest.raises(InputError, match=r"quantized.*float32.*--quantize int8|quantized weights, so give"):
        load(Origin(path=path, model=model))


@pytest.mark.parametrize("model", [None, f"{HOME}:Net"])
def test_a_shard_of_deepspeed_is_called_so(tmp_path, model):
    path = written(tmp_path, "deepspeed", foreign.Net(), sharded=True)
    with pytest.raises(InputError, match=r"DeepSpeed.*zero_to_fp32\.py"):
        load(Origin(path=path, model=model))
    torch.save({"optimizer_state_dict": {"fp32_flat_groups": [torch.ones(3)]}, "ds_version": "0.16"}, path)
    with pytest.raises(InputError, match=r"DeepSpeed.*zero_to_fp32\.py"):
        load(Origin(path=path, model=model))


def test_a_compressed_nemo_archive_is_read(tmp_path):
    network = foreign.SpeechEncoder()
    path = written(tmp_path, "nemo", network.encoder, compression="gz")
    assert_loaded(load(Origin(path=path, model=f"{HOME}:SpeechEncoder")), network)


def test_a_key_is_advised_only_where_there_is_a_choice(tmp_path):
    network = nn.ModuleDict({"lstm": nn.LSTM(3, 4)})
    torch.save(network.state_dict(), tmp_path / "m.pt")
    with pytest.raises(
        InputError, match=r"fc\.weight is missing; the file has LSTM.* at lstm, so check --model and --init\."
    ):
        load(Origin(path=tmp_path / "m.pt", model=f"{HOME}:Net"))
    torch.save({"a": network.state_dict(), "b": {"x": torch.ones(2)}}, tmp_path / "m.pt")
    with pytest.raises(InputError, match=r"so check --model, --init and --weights-key\."):
        load(Origin(path=tmp_path / "m.pt", model=f"{HOME}:Net"))


def test_a_class_that_is_not_there_is_told_what_is(tmp_path):
    path = written(tmp_path, "stable_baselines3", foreign.Actor())
    with pytest.raises(InputError, match=r"do not fit Net: .* LSTM\(3, 4\) at policy\.lstm_actor"):
        load(Origin(path=path, model=f"{HOME}:Net"))


@pytest.mark.parametrize("content", [lambda network: network, lambda network: {"model": network, "epoch": 1}])
def test_the_weights_of_a_whole_module_are_read_by_its_class_and_nothing_runs(tmp_path, content, monkeypatch):
    network = foreign.Net()
    torch.save(content(network), tmp_path / "m.pt")
    with monkeypatch.context() as patch:
        patch.setattr(foreign.Net, "__setstate__", lambda *_: pytest.fail("code of the class runs"), raising=False)
        assert open_weights(tmp_path / "m.pt").modules
    assert_loaded(load(Origin(path=tmp_path / "m.pt", model=f"{HOME}:Net")), network)
    with pytest.raises(InputError, match=r"class foreign_checkpoints\.Net.*--model FILE\.py:Net.*--trust-pickle"):
        load(Origin(path=tmp_path / "m.pt"))


def test_a_whole_module_of_pytorch_is_read_where_its_weights_say_what_it_computes(tmp_path):
    torch.save(nn.LSTM(3, 4), tmp_path / "m.pt")
    assert "the file is an LSTM(3, 4)" in load(Origin(path=tmp_path / "m.pt")).findings
    torch.save(nn.DataParallel(foreign.Net()), tmp_path / "m.pt")
    with pytest.raises(InputError, match=r"class foreign_checkpoints\.Net.*--model FILE\.py:Net"):
        load(Origin(path=tmp_path / "m.pt"))
    torch.save(nn.Sequential(foreign.Net(), nn.ReLU(), nn.Linear(2, 2)), tmp_path / "m.pt")
    with pytest.raises(
        InputError, match=r"container\.Sequential.*write a class of the same parts.*--model FILE\.py:Class"
    ):
        load(Origin(path=tmp_path / "m.pt"))


def test_of_several_whole_modules_the_key_says_which(tmp_path):
    network = foreign.Net()
    torch.save({"actor": foreign.Net(), "critic": network}, tmp_path / "m.pt")
    assert_loaded(load(Origin(path=tmp_path / "m.pt", weights_key="critic", trust_pickle=True)), network)
    with pytest.raises(InputError, match="several modules; choose one with --weights-key actor or critic"):
        load(Origin(path=tmp_path / "m.pt", trust_pickle=True))
    with pytest.raises(InputError, match="no entry 'x'"):
        load(Origin(path=tmp_path / "m.pt", weights_key="x", trust_pickle=True))
    command = r"with --weights-key critic --model FILE\.py:Net"
    with pytest.raises(InputError, match=command):
        load(Origin(path=tmp_path / "m.pt", weights_key="critic"))
    assert_loaded(load(Origin(path=tmp_path / "m.pt", weights_key="critic", model=f"{HOME}:Net")), network)


def test_other_recurrent_layers_are_counted_as_what_they_are(tmp_path):
    both = foreign.renamed(nn.LSTM(3, 4), "a.") | foreign.renamed(nn.GRU(3, 4), "b.")
    torch.save(both, tmp_path / "m.pt")
    with pytest.raises(InputError, match=r"2 recurrent layers \(a: LSTM\(3, 4\), b: GRU"):
        load(Origin(path=tmp_path / "m.pt"))
    torch.save(foreign.renamed(nn.GRU(3, 4), "a.") | foreign.renamed(nn.GRU(3, 4), "b."), tmp_path / "m.pt")
    with pytest.raises(InputError, match=r"2 GRUs \(a: GRU\(3, 4\), b: GRU"):
        load(Origin(path=tmp_path / "m.pt"))


@pytest.mark.parametrize("kept", ["emb.weight", "out.weight"])
def test_a_tied_weight_may_have_one_of_its_names_in_the_file(tmp_path, kept):
    """As safetensors keeps it."""
    network = foreign.TiedNet()
    names = {"emb.weight", "out.weight"} - {kept}
    weights = {name: value for name, value in network.state_dict().items() if name not in names}
    save_file(weights, tmp_path / "m.safetensors")
    loaded = load(Origin(path=tmp_path / "m.safetensors", model=f"{HOME}:TiedNet"))
    assert_loaded(loaded, network)
    assert "not used" not in " ".join(loaded.findings)
    del weights[kept]
    save_file(weights, tmp_path / "m.safetensors")
    with pytest.raises(InputError, match=r"emb\.weight is missing"):
        load(Origin(path=tmp_path / "m.safetensors", model=f"{HOME}:TiedNet"))


@settings(max_examples=25, deadline=None)
@given(
    places=st.lists(st.text("abcdefgh_", min_size=1, max_size=4), max_size=3, unique=True),
    nested=st.booleans(),
    others=st.integers(0, 3),
)
def test_a_class_is_found_wherever_it_lies(tmp_path_factory, places, nested, others):
    path = Path(tmp_path_factory.mktemp("any")) / "m.pt"
    network = foreign.Net()
    content = network.state_dict()
    for place in places:
        content = {place: content} if nested else {f"{place}.{name}": value for name, value in content.items()}
    content |= {f"other{index}.weight": torch.ones(index + 1) for index in range(others)}
    torch.save(content, path)
    assert_loaded(load(Origin(path=path, model=f"{HOME}:Net")), network)


@pytest.mark.parametrize("outer", ["", "model.0.rnns.0."])
def test_weights_as_weight_drop_leaves_them_are_not_taken(tmp_path, outer):
    """As fastai saves them: those of the LSTM have entries dropped, and the whole ones lie beside it."""
    weights = foreign.renamed(nn.LSTM(3, 4), f"{outer}module.")
    weights[f"{outer}weight_hh_l0_raw"] = weights[f"{outer}module.weight_hh_l0"] * 2
    torch.save(weights, tmp_path / "m.pt")
    for key in (None, f"{outer}module", *([outer.rstrip(".")] if outer else [])):
        with pytest.raises(InputError, match=r"weight_hh_l0_raw in each call \(weight drop\); name the class"):
            load(Origin(path=tmp_path / "m.pt", weights_key=key))
    torch.save(weights | foreign.renamed(nn.LSTM(3, 4), "other."), tmp_path / "m.pt")
    with pytest.raises(InputError) as error:
        load(Origin(path=tmp_path / "m.pt"))
    assert "weights-key" not in str(error.value) or "--weights-key other." in str(error.value)


def test_weights_that_are_made_of_others_are_called_so(tmp_path):
    network = foreign.Net()
    for name in ("weight_ih_l0", "weight_hh_l0"):
        nn.utils.parametrizations.weight_norm(network.lstm, name)
    torch.save(network.state_dict(), tmp_path / "m.pt")
    made = r"a recurrent layer whose weights are made of others \(lstm\.parametrizations\.weight_ih_l0\.original0\)"
    with pytest.raises(InputError, match=f"it has {made}; name its class"):
        load(Origin(path=tmp_path / "m.pt"))
    with pytest.raises(InputError, match=f"the file has {made}, so the class has to make them too"):
        load(Origin(path=tmp_path / "m.pt", model=f"{HOME}:Net"))


@pytest.mark.parametrize(
    ("shapes", "name", "biases"),
    [({"kernel": (3, 16), "recurrent_kernel": (4, 16), "bias": (16,)}, "an LSTM", "bias_hh_l0 zeros"),
     ({"kernel": (3, 12), "recurrent_kernel": (4, 12), "bias": (2, 12)}, "a GRU", "is bias.1., where .* change places"),
     ({"kernel": (3, 4), "recurrent_kernel": (4, 4), "bias": (4,)}, "an RNN", "bias_hh_l0 zeros")],
)  # fmt: skip
@pytest.mark.parametrize("model", [None, f"{HOME}:Net"])
def test_the_names_of_keras_are_told_what_they_are_in_pytorch(tmp_path, model, shapes, name, biases):
    renamed = {f"rnn/cell/{weight}": torch.ones(shape) for weight, shape in shapes.items()}
    save_file(renamed, tmp_path / "m.safetensors")
    with pytest.raises(InputError, match=rf"{name} by the names of Keras .*weight_ih_l0 is kernel\.T.*{biases}"):
        load(Origin(path=tmp_path / "m.safetensors", model=model))


@pytest.mark.parametrize(
    "content", [lambda net: list(net.parameters()), lambda net: torch.cat([p.flatten() for p in net.parameters()])]
)
def test_weights_without_names_are_not_said_to_be_no_lstm(tmp_path, content):
    torch.save(content(foreign.Net()), tmp_path / "m.pt")
    with pytest.raises(InputError, match="no LSTM, GRU or RNN was found in it"):
        load(Origin(path=tmp_path / "m.pt"))
    with pytest.raises(
        InputError, match="has no LSTM, GRU or RNN by the names of PyTorch, but (0, 1, 2|one without a name)"
    ):
        load(Origin(path=tmp_path / "m.pt", model=f"{HOME}:Net"))


@pytest.mark.parametrize("model", [None, f"{HOME}:Net"])
def test_a_file_without_a_network_is_called_what_it_is(tmp_path, model):
    torch.save(foreign.optimizer_of(foreign.Net()), tmp_path / "optimizer.bin")
    with pytest.raises(InputError, match=r"holds the state of an optimizer, without the weights; give the file"):
        load(Origin(path=tmp_path / "optimizer.bin", model=model))
    foreign.frozen(tmp_path / "m.pt", foreign.Net())
    with pytest.raises(InputError, match=r"constants without names .*give the weights that it was made from"):
        load(Origin(path=tmp_path / "m.pt", model=model))


@pytest.mark.filterwarnings("ignore:torch")
@pytest.mark.parametrize("model", [None, f"{HOME}:Net"])
def test_a_whole_quantized_module_is_called_so(tmp_path, model):
    torch.save(torch.ao.quantization.quantize_dynamic(foreign.Net(), {nn.LSTM}), tmp_path / "m.pt")
    with pytest.raises(InputError, match=r"quantized.*float32"):
        load(Origin(path=tmp_path / "m.pt", model=model))


@pytest.mark.parametrize("outer", [None, "trained"])
def test_parts_that_can_only_be_one_network_are_joined_without_its_class(tmp_path, outer):
    network = foreign.Net()
    parts = {"encoder": network.lstm.state_dict(), "fc": network.fc.state_dict(), "epoch": 3}
    torch.save({outer: parts} if outer else parts, tmp_path / "m.pt")
    loaded = load(Origin(path=tmp_path / "m.pt", weights_key=outer))
    x = torch.randn(2, 5, 3)
    torch.testing.assert_close(loaded.lifted.module(x), network(x))
    names = ", ".join(f"{outer}.{name}" if outer else name for name in ("encoder", "fc"))
    assert f"the weights under {names} are taken to be one network" in loaded.findings


@pytest.mark.parametrize(
    "other", [{"mean": torch.ones(3)}, {"weight": torch.ones(1, 5)}, foreign.Net().fc.state_dict()]
)
def test_parts_that_may_be_of_several_networks_are_not_joined(tmp_path, other):
    torch.save({"actor": foreign.Net().state_dict(), "other": other}, tmp_path / "m.pt")
    with pytest.raises(InputError, match=r"does not say which .* --weights-key actor\.$"):
        load(Origin(path=tmp_path / "m.pt"))
