from . import checkpoint as checkpoint, plots as plots, tables as tables, training_data as training_data
from .checkpoint import (
    NETWORK_FILE as NETWORK_FILE,
    InferredConfig as InferredConfig,
    Network as Network,
    NetworkConfig as NetworkConfig,
    Spec as Spec,
    is_ours as is_ours,
    read_spec as read_spec,
)
from .data.labelled_texts import Labelled as Labelled, read_labelled as read_labelled, split as split
from .data.series import (
    Series as Series,
    Values as Values,
    held_out_from as held_out_from,
    read_series as read_series,
    read_vocabulary as read_vocabulary,
)
from .data.synthetic import generate as generate
from .fit_log import LAST as LAST
from .loop import belongs_to as belongs_to
from .network import build as build
from .pipeline import Trained as Trained, train as train
from .processes import is_first_process as is_first_process
from .recipe import (
    RANGES as RANGES,
    SEARCHABLE as SEARCHABLE,
    Generator as Generator,
    LossOn as LossOn,
    Missing as Missing,
    Optimizer as Optimizer,
    Pooling as Pooling,
    Precision as Precision,
    Range as Range,
    Recipe as Recipe,
    Scaling as Scaling,
    Schedule as Schedule,
    Strategy as Strategy,
    TaskName as TaskName,
    check_values as check_values,
    make_recipe as make_recipe,
    option_of as option_of,
)
from .training_data import Material as Material
from .tuning import Found as Found, search as search
