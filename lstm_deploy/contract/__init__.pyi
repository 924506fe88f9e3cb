from .c_interface import (
    C_BYTES as C_BYTES,
    C_TYPES as C_TYPES,
    STEPS as STEPS,
    CallMode as CallMode,
    CInterface as CInterface,
    CTensor as CTensor,
    c_tensors as c_tensors,
    comment_safe as comment_safe,
    state_field as state_field,
)
from .cells import LSTM as LSTM
from .layouts import layout_of as layout_of, pad_sequences as pad_sequences
from .rollouts import (
    MIN_TEMPERATURE as MIN_TEMPERATURE,
    NO_STOP as NO_STOP,
    carries_state as carries_state,
    check_rollout_inputs as check_rollout_inputs,
    no_rollout_reason as no_rollout_reason,
    rollout_contract as rollout_contract,
    window_of as window_of,
)
from .sampling import (
    blank_feeds as blank_feeds,
    sample_inputs as sample_inputs,
    sample_state as sample_state,
    sizes_of as sizes_of,
    steps_of as steps_of,
    with_lengths as with_lengths,
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
    StateSpec as StateSpec,
    Streaming as Streaming,
    TensorSpec as TensorSpec,
    decode_json as decode_json,
)
from .tasks import (
    BYTES as BYTES,
    Classify as Classify,
    Forecast as Forecast,
    LanguageModel as LanguageModel,
    Task as Task,
    Unit as Unit,
    split_text as split_text,
    widths as widths,
)
