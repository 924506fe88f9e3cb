from . import pipeline as pipeline, report as report
from .pipeline import export as export
from .precision.selection import Request as Request
