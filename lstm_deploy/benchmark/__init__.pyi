from . import comparison as comparison, plots as plots, runner as runner, tables as tables
from .runner import Plan as Plan, bench as bench
from .statistics import NO_DIFFERENCE as NO_DIFFERENCE
from .variants import BASELINES as BASELINES
