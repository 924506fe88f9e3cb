from . import (
    c_weights as c_weights,
    environment as environment,
    lint as lint,
    onnx_graph as onnx_graph,
    saturation as saturation,
)
from .bundle import (
    GOLDEN as GOLDEN,
    MANIFEST as MANIFEST,
    REPORT as REPORT,
    REPORT_PLOTS as REPORT_PLOTS,
    Artifact as Artifact,
    Bundle as Bundle,
    Evidence as Evidence,
    Manifest as Manifest,
    Source as Source,
    check_free as check_free,
    write_manifest as write_manifest,
    writing as writing,
)
from .c_source import read_interface as read_interface
from .c_weights import (
    GROUP as GROUP,
    ROW as ROW,
    UNITS as UNITS,
    Quantized as Quantized,
    dense_int8 as dense_int8,
    lstm_int8 as lstm_int8,
    packed_lstm as packed_lstm,
    rows_int8 as rows_int8,
)
from .figures import (
    BLUE as BLUE,
    GREEN as GREEN,
    GREY as GREY,
    ORANGE as ORANGE,
    PURPLE as PURPLE,
    RED as RED,
    cell as cell,
    markdown_table as markdown_table,
)
from .files import (
    mode_of_new_files as mode_of_new_files,
    read_npz as read_npz,
    read_text as read_text,
    relative as relative,
    replacing as replacing,
    require_file as require_file,
    sha256 as sha256,
    weights_file as weights_file,
)
from .formats import FORMATS as FORMATS, SUFFIXES as SUFFIXES
from .isolation import CrashError as CrashError, isolated as isolated
from .onnx_graph import EXTERNAL_ABOVE as EXTERNAL_ABOVE, operators as operators, precision as precision
from .onnx_weights import (
    Layer as Layer,
    constants_of as constants_of,
    floats_of as floats_of,
    lstm_layers as lstm_layers,
    matrices_of as matrices_of,
)
from .parity_report import Check as Check, Diagnosis as Diagnosis, ParityReport as ParityReport, Profile as Profile
from .saturation import CPUS_KEY as CPUS_KEY, needs_vnni as needs_vnni
from .torchscript_archives import (
    extra_files as extra_files,
    is_torchscript as is_torchscript,
    opened_archive as opened_archive,
)
