"""Mutates good files of weights of every kind, and reads them."""

import random
import zipfile

import torch
from foreign_checkpoints import archive_of
from safetensors.torch import save_file
from torch import nn

from lstm_deploy.artifacts.torchscript_archives import extra_files
from lstm_deploy.errors import InputError
from lstm_deploy.lifting.weight_choice import read_weights

KINDS = ("zip", "zip entries", "legacy", "safetensors", "torchscript", "torchscript entries", "tar", "gz")


def fuzz(folder, kind, count, seed):
    """Flip, cut and repeat bytes of a good file; anything but weights or InputError escapes as it is."""
    kind, _, entries = kind.partition(" ")
    state = nn.LSTM(3, 4).state_dict()
    good = folder / ("m.safetensors" if kind == "safetensors" else "m.pt")
    if kind == "safetensors":
        save_file(state, good)
    elif kind in ("tar", "gz"):
        archive_of(good, kind, {"one/model.pt": nn.LSTM(3, 4)})
    elif kind == "torchscript":
        torch.jit.save(torch.jit.trace(nn.Sequential(nn.Linear(2, 3)), torch.zeros(1, 2)), good)
    else:
        torch.save({"state_dict": state}, good, _use_new_zipfile_serialization=kind == "zip")
    original = good.read_bytes()
    rng = random.Random(seed)
    refused = 0
    for _ in range(count):
        good.write_bytes(original if entries else mutated(original, rng))
        if entries:
            mutate_an_entry(good, rng)
        try:
            read_weights(good)
            extra_files(good)
        except InputError:
            refused += 1
    return refused


def mutated(original, rng):
    content = bytearray(original)
    for _ in range(rng.choice([1, 2, 8])):
        where = rng.randrange(max(1, len(content)))
        match rng.randrange(4):
            case 0:
                content[where : where + 1] = bytes([rng.randrange(256)])
            case 1:
                del content[where : where + rng.randrange(1, 40)]
            case 2:
                content[where:where] = content[max(0, where - 20) : where]
            case 3:
                content = content[: max(1, where)]
    return bytes(content)


def mutate_an_entry(path, rng):
    """One file within an archive, whose checksum is then right again: it gets as far as the unpickler."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice([name for name in contents if not name.endswith((".py", ".debug_pkl"))])
    with zipfile.ZipFile(path, "w") as archive:
        for each, content in contents.items():
            archive.writestr(each, mutated(content, rng) if each == name else content)
