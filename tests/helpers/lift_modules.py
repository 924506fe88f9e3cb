"""Lifts modules, with random numbers from one seed."""

import torch

from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.lifting.lifting import lift

X = TensorSpec.parse("x:float32[batch,seq,3]")


def lift_module(module, spec=X, **options):
    torch.manual_seed(0)
    return lift(module.eval(), [spec], **options)
