from . import checkpoint as checkpoint, plots as plots, result_tables as result_tables, training_data as training_data
from .checkpoint import (
    NETWORK_FILE as NETWORK_FILE,
    CheckpointSpec as CheckpointSpec,
    InferredConfig as InferredConfig,
    NetworkConfig as NetworkConfig,
    NetworkDocument as NetworkDocument,
    is_checkpoint as is_checkpoint,
    read_spec as read_spec,
)
from .data.labelled_texts import (
    LabelledTexts as LabelledTexts,
    read_labelled_texts as read_labelled_texts,
    texts_of as texts_of,
)
from .data.series import Series as Series, Values as Values, generate as generate, read_series as read_series
from .data.splits import (
    parallel_streams as parallel_streams,
    split_by_label as split_by_label,
    split_series as split_series,
    split_tokens as split_tokens,
)
from .data.vocabularies import read_vocabulary as read_vocabulary
from .network import load_network as load_network
from .pipeline import Trained as Trained, train as train
from .recipe import (
    DEFAULTS as DEFAULTS,
    ONLY as ONLY,
    Generator as Generator,
    Missing as Missing,
    Recipe as Recipe,
    TaskName as TaskName,
    make_recipe as make_recipe,
    option_name as option_name,
)
from .run_folder import LAST_STATE as LAST_STATE, is_rank_zero as is_rank_zero
from .run_state import belongs_to as belongs_to
from .search_space import SearchSpace as SearchSpace, make_search_space as make_search_space
from .training_data import TrainingData as TrainingData
from .tuning import SearchResult as SearchResult, search as search
