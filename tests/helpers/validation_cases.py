"""PyTorch references of small modules, few parity cases of them, and the checks of a file."""

from lstm_deploy.contract.signature import TensorSpec
from lstm_deploy.lifting import sources
from lstm_deploy.validation.case_inputs import Effort
from lstm_deploy.validation.checks import Subject
from lstm_deploy.validation.judging import check_file
from lstm_deploy.validation.pytorch_reference import PyTorchReference

SMALL = Effort(30, ((1, 1), (3, 5)), 2, 1e9)


def reference_of(module, *inputs):
    return PyTorchReference(sources.load_module(module, [TensorSpec.parse(text) for text in inputs]).lifted)


def checks_of(path, precision, cases):
    return check_file(Subject(path=path, name=path.name, precision=precision), cases).checks
