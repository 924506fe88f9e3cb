from . import comparison as comparison, plots as plots, runner as runner, tables as tables
from .runner import Plan as Plan, bench as bench
from .variants import BASELINES as BASELINES
