"""Runs a user's own code: imports the class of a network, makes an instance, unpickles a trusted module."""

import importlib.util
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lstm_deploy.errors import InputError, did_you_mean, one_line, user_line


def import_module(home: str) -> Any:
    """Import a module by the path of its file or by its dotted name.

    Raises `InputError` if there is no such file or it cannot be imported.
    """
    path = Path(home)
    try:
        if not home.endswith(".py"):
            with _searched_first(Path.cwd()):
                return importlib.import_module(home)
        if not path.is_file():
            raise InputError(f"{path} does not exist; check --model.")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module  # so that pickles and dataclasses in it find themselves
        with _searched_first(path.parent.resolve()):  # for its siblings, as when it is run
            spec.loader.exec_module(module)
        return module
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's file does when it is imported
        raise InputError(f"{home} cannot be imported ({one_line(error)}{user_line(error)}); check --model.") from error


@contextmanager
def _searched_first(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def instantiate(model: str, init: Mapping[str, Any], made_with: Callable[[], str] = str) -> nn.Module:
    """Make an instance of the class `FILE.py:Class` or `package.module:Class` with the arguments `init`.

    `made_with` gives the end of an error about arguments: those that are known to have been used.
    Raises `InputError` if the class cannot be imported or constructed, or is no module.
    """
    home, _, name = model.rpartition(":")
    if not home or not name:
        raise InputError(f"--model {model!r} names no class; write FILE.py:Class or package.module:Class.")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"torch\.")  # of what the class is written with, which works
        return _instance(home, name, init, made_with)


def _instance(home: str, name: str, init: Mapping[str, Any], made_with: Callable[[], str]) -> nn.Module:
    namespace = import_module(home)
    network_class = getattr(namespace, name, None)
    if not callable(network_class):
        classes = sorted(
            key for key, value in vars(namespace).items() if isinstance(value, type) and issubclass(value, nn.Module)
        )
        remedy = did_you_mean(name, classes) if classes else "it defines no torch.nn.Module."
        raise InputError(f"{home} has no class {name!r}; {remedy}")
    if problem := _wrong_arguments(name, network_class, init):
        raise InputError(f"{problem}{made_with()}.")
    try:
        network = network_class(**init)
    except Exception as error:  # whatever the user's constructor raises
        reason = f"{one_line(error)}{user_line(error)}"
        raise InputError(
            f"{name} cannot be constructed ({reason}); give its arguments with --init JSON{made_with()}."
        ) from error
    if not isinstance(network, nn.Module):
        raise InputError(f"{home}:{name} makes a {type(network).__name__}, not a torch.nn.Module; name its class.")
    return network


def _wrong_arguments(name: str, network_class: Callable[..., Any], init: Mapping[str, Any]) -> str:
    """Which argument of a constructor is unknown or missing, and what to give; empty if all fit."""
    try:
        parameters = inspect.signature(network_class).parameters.values()
    except ValueError:  # of a callable that is not written in Python
        return ""
    named = [each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    names = [each.name for each in named]
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters)
    if not takes_any and (unknown := next((key for key in init if key not in names), None)):
        remedy = did_you_mean(unknown, names).removesuffix(".") if names else "leave out --init"
        return f"{name} has no argument {unknown!r}, which --init gives; {remedy}"
    if missing := [each.name for each in named if each.default is each.empty and each.name not in init]:
        example = ", ".join(f'"{each}": …' for each in missing)
        return f"{name} also needs {' and '.join(missing)}; give --init '{{{example}}}'"
    return ""


def unpickle_module(path: Path, model: str | None = None, key: str | None = None) -> nn.Module:
    """Load a whole pickled module. This runs code from the file: call it for trusted files only.

    The pickle finds the names of the file or package that `model` names in `__main__`, where scripts define their
    classes. Of several modules in a dict, `key` says which. Raises `InputError` if the file holds no module or several,
    or if its class cannot be found.
    """
    home = vars(import_module(model.rpartition(":")[0])) if model else {}
    main = vars(sys.modules["__main__"])
    added = {name: value for name, value in home.items() if name not in main and not name.startswith("__")}
    main.update(added)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of source that changed since: the user said to trust it
            with _searched_first(Path.cwd()):  # where the script that wrote it found its classes
                content = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # unpickling can raise anything
        remedy = "name its class with --model FILE.py:Class, and leave out --trust-pickle to read its weights alone"
        if isinstance(error, AttributeError):
            remedy = "give the file of its class with --model FILE.py:Class"
        raise InputError(f"{path} cannot be unpickled ({one_line(error)}); {remedy}.") from error
    finally:
        for name in added:
            del main[name]
    return _module_in(content, path, key)


def _module_in(content: Any, path: Path, key: str | None) -> nn.Module:
    """The one module in what was unpickled, or that under a key."""
    for part in key.split(".") if key else ():
        if not isinstance(content, Mapping) or part not in content:
            raise InputError(f"{path} has no entry {key!r}; check --weights-key.")
        content = content[part]
    if isinstance(content, Mapping):
        modules = {name: value for name, value in content.items() if isinstance(value, nn.Module)}
        if len(modules) > 1:
            names = [".".join(filter(None, (key, str(name)))) for name in modules]
            raise InputError(f"{path} holds several modules; choose one with --weights-key {' or '.join(names)}.")
        content = next(iter(modules.values()), content)
    if not isinstance(content, nn.Module):
        raise InputError(f"{path} holds a {type(content).__name__}, not a module; leave out --trust-pickle.")
    return content
