from . import bench_report as bench_report, comparison as comparison, plots as plots, runner as runner, tables as tables
from .bench_report import BenchReport as BenchReport
from .comparison import Change as Change, Comparison as Comparison, compare as compare
from .plan import Plan as Plan
from .runner import bench as bench
from .statistics import NO_DIFFERENCE as NO_DIFFERENCE
from .variants import BASELINES as BASELINES
