from . import (
    c_weights as c_weights,
    environment as environment,
    int8_functions as int8_functions,
    int8_saturation as int8_saturation,
    lint as lint,
    onnx_graph as onnx_graph,
    onnx_weights as onnx_weights,
    plot_style as plot_style,
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
    atomic_bundle as atomic_bundle,
    check_destination as check_destination,
    check_unchanged as check_unchanged,
    write_manifest as write_manifest,
)
from .c_blocks import (
    GROUP as GROUP,
    ROW as ROW,
    UNITS as UNITS,
    Quantized as Quantized,
    bias_rows as bias_rows,
    gate_row as gate_row,
    pack_dense_int8 as pack_dense_int8,
    pack_layer as pack_layer,
    pack_layer_int8 as pack_layer_int8,
    quantize_rows as quantize_rows,
    summed_biases as summed_biases,
)
from .c_source import read_interface as read_interface
from .contracts import carried_contract as carried_contract, without_contract as without_contract
from .files import (
    as_path as as_path,
    atomic_write as atomic_write,
    check_output as check_output,
    check_parent as check_parent,
    new_file_mode as new_file_mode,
    read_npz as read_npz,
    read_text as read_text,
    relative_path as relative_path,
    require_file as require_file,
    several as several,
    sha256 as sha256,
    weights_file as weights_file,
)
from .formats import FORMATS as FORMATS, SUFFIXES as SUFFIXES
from .int8_saturation import CPUS_KEY as CPUS_KEY, needs_vnni as needs_vnni
from .isolation import CrashError as CrashError, run_isolated as run_isolated
from .onnx_graph import EXTERNAL_ABOVE as EXTERNAL_ABOVE
from .onnx_weights import Matrix as Matrix, RecurrentLayer as RecurrentLayer, constants_of as constants_of
from .parity_report import (
    Check as Check,
    Diagnosis as Diagnosis,
    ParityReport as ParityReport,
    Profile as Profile,
    worst_check as worst_check,
)
from .producers import PRODUCER as PRODUCER, PRODUCER_FILE as PRODUCER_FILE, producer_of as producer_of
from .proofs import Proof as Proof, proof as proof, reference_options as reference_options, unproven as unproven
from .recurrent_nodes import cell_of_node as cell_of_node, differing_attributes as differing_attributes
from .replacement import restore as restore
from .report_style import (
    format_value as format_value,
    html_lines as html_lines,
    html_table as html_table,
    markdown_table as markdown_table,
)
from .scratch import scratch_folder as scratch_folder
from .templating import template_environment as template_environment
from .threads import fitting_threads as fitting_threads
from .torchscript_archives import (
    ZIP as ZIP,
    extra_files as extra_files,
    is_torchscript as is_torchscript,
    is_zip as is_zip,
    most_bytes as most_bytes,
    opened_archive as opened_archive,
)
from .value_flow import FIRST_STATE as FIRST_STATE, Value as Value, ValueFlow as ValueFlow
