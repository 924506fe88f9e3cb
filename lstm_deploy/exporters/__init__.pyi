from . import pipeline as pipeline, report as report
from .anew import validate as validate
from .pipeline import export as export
from .plan import DEFAULT_FORMATS as DEFAULT_FORMATS, make_plan as make_plan
from .precision.options import PrecisionOptions as PrecisionOptions
from .usage import sample_text as sample_text
