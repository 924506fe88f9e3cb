from . import (
    c_weights as c_weights,
    environment as environment,
    lint as lint,
    onnx_graph as onnx_graph,
    onnx_weights as onnx_weights,
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
from .c_blocks import (
    GATES as GATES,
    GROUP as GROUP,
    ROW as ROW,
    UNITS as UNITS,
    Quantized as Quantized,
    pack_dense_int8 as pack_dense_int8,
    pack_lstm as pack_lstm,
    pack_lstm_int8 as pack_lstm_int8,
    quantize_rows as quantize_rows,
    summed_biases as summed_biases,
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
from .isolation import CrashError as CrashError, isolated as isolated
from .onnx_graph import EXTERNAL_ABOVE as EXTERNAL_ABOVE, operators as operators, precision as precision
from .onnx_weights import LstmLayer as LstmLayer, Matrix as Matrix, constants_of as constants_of, half_step as half_step
from .parity_report import Check as Check, Diagnosis as Diagnosis, ParityReport as ParityReport, Profile as Profile
from .saturation import CPUS_KEY as CPUS_KEY, needs_vnni as needs_vnni
