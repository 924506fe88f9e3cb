from .anew import SAME as SAME, Written as Written
from .case_inputs import LOWERED as LOWERED, QUICK as QUICK
from .checks import CHECKS as CHECKS, Subject as Subject
from .golden_trace import golden_cases as golden_cases, record_trace as record_trace
from .judging import check_file as check_file, open_emulating as open_emulating
from .parity_case import ParityCase as ParityCase, run_case as run_case, shortened as shortened
from .pipeline import check_artifacts as check_artifacts, validate as validate
from .pytorch_reference import PyTorchReference as PyTorchReference
from .reference import GOLDEN_TRACE as GOLDEN_TRACE, pytorch_name as pytorch_name
from .reference_cases import golden_inputs as golden_inputs, make_cases as make_cases
from .tolerances import INT8_KERNELS as INT8_KERNELS, allowed as allowed, relative_tolerance as relative_tolerance
