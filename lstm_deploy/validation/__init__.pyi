from . import pipeline as pipeline
from .cases import (
    LOWERED as LOWERED,
    QUICK as QUICK,
    Case as Case,
    make_cases as make_cases,
    record as record,
    shortened as shortened,
)
from .checks import (
    check_artifacts as check_artifacts,
    golden_cases as golden_cases,
    open_for_proof as open_for_proof,
    prove_file as prove_file,
)
from .comparing import run_case as run_case
from .float16_on_cpu import rename as rename
from .pipeline import validate as validate
from .reference import ReferenceRuntime as ReferenceRuntime
from .tolerances import INT8_KERNELS as INT8_KERNELS, allowed as allowed, relative_tolerance as relative_tolerance
