"""PyTorch references of small modules, and few parity cases of them."""

from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.lifting import sources
from lstm_deploy.validation.case_inputs import Effort
from lstm_deploy.validation.pytorch_reference import PyTorchReference

SMALL = Effort(30, ((1, 1), (3, 5)), 2, 1e9)


def reference_of(module, *inputs):
    return PyTorchReference(sources.load_module(module, [TensorSpec.parse(text) for text in inputs]).lifted)
