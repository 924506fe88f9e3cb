from . import flat_weights as flat_weights, onnx_order as onnx_order, sources as sources
from .calling import flatten as flatten
from .execution import in_float64 as in_float64, shared_copy as shared_copy, threads_for as threads_for
from .onnx_order import to_onnx_order as to_onnx_order
from .packing import namespaces_of as namespaces_of
from .probing import dynamic_dims as dynamic_dims, example_inputs as example_inputs
from .recognition import recognize as recognize
from .recurrent import (
    Lifted as Lifted,
    StatefulCell as StatefulCell,
    StatefulSequence as StatefulSequence,
    is_plain as is_plain,
    specialize as specialize,
)
from .recurrent_modules import (
    RECURRENT_MODULES as RECURRENT_MODULES,
    State as State,
    as_passed as as_passed,
    cell_of as cell_of,
    layers_of as layers_of,
    state_of as state_of,
)
from .recurrent_weights import describe_recurrent as describe_recurrent
from .sources import Origin as Origin, origin_to_json as origin_to_json
from .traced_sizes import sizes_traced as sizes_traced
from .tracing import (
    frozen_size_error as frozen_size_error,
    is_users_file as is_users_file,
    trace as trace,
    wrong_sizes as wrong_sizes,
)
from .weight_choice import choose as choose, read_weights as read_weights
from .weight_files import open_weights as open_weights
