from . import c_compiler as c_compiler
from .input_checks import complete_feeds as complete_feeds
from .model import Model as Model, open as open
from .onnxrt import (
    OnnxRuntime as OnnxRuntime,
    check_provider as check_provider,
    open_session as open_session,
    probe_providers as probe_providers,
)
from .opening import cannot_run as cannot_run, open_runtime as open_runtime
from .openvino import OpenVinoRuntime as OpenVinoRuntime
from .protocol import Runtime as Runtime
from .providers import PROVIDERS as PROVIDERS, find_provider as find_provider
from .slots import Slots as Slots
from .stepping import Stepper as Stepper, unroll as unroll
from .streams import (
    StateStream as StateStream,
    Stream as Stream,
    WindowStream as WindowStream,
    check_streamable as check_streamable,
)
from .torchrt import EagerRuntime as EagerRuntime, TorchRuntime as TorchRuntime, prepare as prepare
