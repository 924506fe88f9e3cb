"""Recurrent modules of every kind, made alike."""

from torch import nn

from lstm_deploy.contract.cells import CELLS


def layer(kind, *sizes, **form):
    """A module that runs over sequences."""
    return _made(kind, 0, *sizes, **form)


def cell(kind, *sizes, **form):
    """A module of one step."""
    return _made(kind, 1, *sizes, **form)


def _made(kind, place, *sizes, **form):
    record = CELLS[kind]
    given = {} if record.nonlinearity is None else {"nonlinearity": record.nonlinearity}
    return getattr(nn, record.pytorch_modules[place])(*sizes, **given, **form)
