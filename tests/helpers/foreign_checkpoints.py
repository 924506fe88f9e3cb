"""Checkpoints as other frameworks write them, by their own keys, with objects of classes that are not installed."""

import argparse
import io
import pathlib
import sys
import tarfile
import types
import warnings
import zipfile
from contextlib import contextmanager

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(self.lstm(x)[0])


class Actor(nn.Module):
    """The actor of a recurrent policy of sb3-contrib."""

    def __init__(self):
        super().__init__()
        self.lstm_actor = nn.LSTM(3, 4)
        self.mlp_extractor = nn.ModuleDict({"policy_net": nn.Sequential(nn.Linear(4, 6), nn.Tanh())})
        self.action_net = nn.Linear(6, 2)

    def forward(self, x):
        return self.action_net(self.mlp_extractor["policy_net"](self.lstm_actor(x)[0]))


class RecurrentModel(nn.Module):
    """The actor or the critic of rsl_rl."""

    def __init__(self, inputs=3, outputs=2):
        super().__init__()
        self.rnn = nn.ModuleDict({"rnn": nn.LSTM(inputs, 4)})
        self.mlp = nn.Sequential(nn.Linear(4, 6), nn.ELU(), nn.Linear(6, outputs))

    def forward(self, x):
        return self.mlp(self.rnn["rnn"](x)[0])


class TiedNet(nn.Module):
    """A language model whose embedding and output share a weight."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(7, 4)
        self.lstm = nn.LSTM(4, 4, batch_first=True)
        self.out = nn.Linear(4, 7)
        self.out.weight = self.emb.weight

    def forward(self, x):
        return self.out(self.lstm(self.emb(x))[0])


class SpeechEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = Net()

    def forward(self, x):
        return self.encoder(x)


@contextmanager
def absent_class(module, name):
    """A class of a package that is not installed, for as long as something is pickled."""
    parts = module.split(".")
    names = [".".join(parts[: end + 1]) for end in range(len(parts))]
    before = {each: sys.modules.get(each) for each in names}
    sys.modules.update({each: types.ModuleType(each) for each in names})
    made = type(name, (), {"__module__": module})
    setattr(sys.modules[module], name, made)
    try:
        yield made
    finally:
        for each, old in before.items():
            if old is None:
                del sys.modules[each]
            else:
                sys.modules[each] = old


def renamed(network, prefix):
    return {prefix + name: value for name, value in network.state_dict().items()}


def optimizer_of(network):
    optimizer = torch.optim.Adam(network.parameters())
    sum(value.sum() for value in network.parameters()).backward()
    optimizer.step()
    return optimizer.state_dict()


def lightning(path, network):
    content = {
        "epoch": 0,
        "global_step": 2,
        "pytorch-lightning_version": "2.6.0",
        "state_dict": renamed(network, "net.") | {"loss.weight": torch.ones(3)},
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.5), "dirpath": "lit"}},
        "optimizer_states": [optimizer_of(network)],
        "lr_schedulers": [],
        "hparams_name": "args",
        "hyper_parameters": {"args": argparse.Namespace(lr=1, data=pathlib.Path("data"))},
    }
    torch.save(content, path)


def hugging_face(path, network):
    save_file(renamed(network, "encoder."), path, {"format": "pt"})


def split(folder, network, suffix):
    """As Hugging Face does it: two files, and a list of what is in which."""
    weights = list(network.state_dict().items())
    for number in range(2):
        path = folder / f"model-0000{number + 1}-of-00002.{suffix}"
        (save_file if suffix == "safetensors" else torch.save)(dict(weights[3 * number :][: 3 + 9 * number]), path)
    (folder / f"model.{suffix}.index.json").write_text('{"weight_map": {}}')


def fairseq(path, network):
    content = {
        "args": argparse.Namespace(arch="lstm", lr=[0.1]),
        "cfg": {"_name": None, "model": {"arch": "lstm"}},
        "model": network.state_dict(),
        "criterion": {},
        "optimizer_history": [{"criterion_name": "CrossEntropyCriterion", "best_loss": np.float64(2.5)}],
        "task_state": {},
        "extra_state": {"metrics": {"train": [("loss", 20, "AverageMeter", {"val": np.float32(1)})]}, "val_loss": 1.0},
        "last_optimizer_state": optimizer_of(network),
    }
    torch.save(content, path)


def nemo(path, network, compression=""):
    weights = io.BytesIO()
    torch.save(renamed(network, "encoder."), weights)
    with tarfile.open(path, f"w:{compression}") as archive:
        for name, content in (("./model_config.yaml", b"target: nemo"), ("./model_weights.ckpt", weights.getvalue())):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def stable_baselines3(path, network):
    critic = renamed(nn.LSTM(3, 4), "lstm_critic.") | renamed(nn.Linear(4, 1), "value_net.")
    files = {"policy.pth": network.state_dict() | critic, "policy.optimizer.pth": optimizer_of(network)}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", '{"policy_class": {":type:": "<class \'abc.ABCMeta\'>", ":serialized:": "gAWV"}}')
        for name, content in (files | {"pytorch_variables.pth": {}}).items():
            with archive.open(name, "w") as file:
                torch.save(content, file)
        archive.writestr("_stable_baselines3_version", "2.9.0")


def rsl_rl(path, network):
    content = {
        "actor_state_dict": network.state_dict(),
        "critic_state_dict": RecurrentModel(5, 1).state_dict(),
        "optimizer_state_dict": optimizer_of(network),
        "iter": 5,
        "infos": None,
    }
    torch.save(content, path)


def clean_rl(path, network):
    torch.save((network.state_dict(), nn.Linear(3, 1).state_dict(), nn.Linear(3, 1).state_dict()), path)


def deepspeed(path, network, sharded=False):
    weights = {name: value.half() for name, value in renamed(network, "module.").items()}
    content = {
        "module": {name: value[:0] if sharded else value for name, value in weights.items()},
        "buffer_names": [],
        "optimizer": None,
        "param_shapes": [{name: value.shape for name, value in weights.items()}],
        "ds_config": {"zero_optimization": {"stage": 3 if sharded else 1}},
        "ds_version": "0.16.0",
    }
    torch.save(content, path)


def hydra(path, network):
    """With a configuration whose nodes refer back to it, as those of OmegaConf do."""
    with absent_class("omegaconf.dictconfig", "DictConfig") as config:
        root, node = config(), config()
        root._content, node._parent, root._metadata = {"model": node}, root, argparse.Namespace(ref_type=dict)
        torch.save({"cfg": root, "model": network.state_dict()}, path)


def averaged(path, network):
    torch.save({"state_dict": network.state_dict(), "state_dict_ema": Net().state_dict(), "epoch": 1}, path)


def ema_wrapper(path, network):
    """As ema-pytorch does it: both copies in one state dict."""
    both = renamed(Net(), "online_model.") | renamed(network, "ema_model.")
    torch.save({"initted": torch.tensor(True), "step": torch.tensor(3), **both}, path)


def quantized(path, network, layers=(nn.LSTM, nn.Linear)):
    torch.save(torch.ao.quantization.quantize_dynamic(network, set(layers)).state_dict(), path)


def archive_of(path, form, networks):
    """An archive with the weights of each network, and a file of macOS beside each."""
    files = {}
    for name, network in networks.items():
        content = io.BytesIO()
        torch.save(network.state_dict(), content)
        folder, _, base = name.rpartition("/")
        files |= {name: content.getvalue(), f"{folder}/._{base}": b"Mac OS X"}
    if form == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, f"w:{form.removeprefix('tar')}") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def frozen(path, network):
    """A TorchScript archive whose weights have become constants of its code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # all of torch.jit warns that it is deprecated
        torch.jit.freeze(torch.jit.script(network.eval())).save(path)
