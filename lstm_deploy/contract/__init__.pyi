from .c_interface import (
    C_BYTES as C_BYTES,
    C_TYPES as C_TYPES,
    STEPS as STEPS,
    Interface as Interface,
    Mode as Mode,
    Tensor as Tensor,
    commented as commented,
    field as field,
    filled as filled,
    tensors as tensors,
)
from .cells import LSTM as LSTM, by_module as by_module
from .layouts import layout_of as layout_of, padded as padded
from .rollouts import (
    COLDEST as COLDEST,
    NO_STOP as NO_STOP,
    carries as carries,
    check_feeds as check_feeds,
    contract_of as contract_of,
    window_of as window_of,
)
from .sampling import (
    blank_inputs as blank_inputs,
    sample_inputs as sample_inputs,
    sample_state as sample_state,
    sizes_of as sizes_of,
)
from .signature import (
    CONTRACT_FILE as CONTRACT_FILE,
    CONTRACT_KEY as CONTRACT_KEY,
    SCHEMA_VERSION as SCHEMA_VERSION,
    Array as Array,
    Dim as Dim,
    DType as DType,
    Feeds as Feeds,
    FixedDim as FixedDim,
    Outputs as Outputs,
    RecurrentSpec as RecurrentSpec,
    Signature as Signature,
    StateDtype as StateDtype,
    StateLayout as StateLayout,
    StatePolicy as StatePolicy,
    Streaming as Streaming,
    TensorSpec as TensorSpec,
    decode as decode,
)
from .tasks import (
    BYTES as BYTES,
    Classify as Classify,
    Forecast as Forecast,
    LanguageModel as LanguageModel,
    Task as Task,
    Unit as Unit,
    pieces as pieces,
    widths as widths,
)
