from .artifacts import Bundle as Bundle, Check as Check, Diagnosis as Diagnosis, ParityReport as ParityReport
from .benchmark import (
    BenchReport as BenchReport,
    Change as Change,
    Comparison as Comparison,
    Plan as Plan,
    bench as bench,
    compare as compare,
)
from .contract import (
    Classify as Classify,
    Forecast as Forecast,
    LanguageModel as LanguageModel,
    RecurrentSpec as RecurrentSpec,
    Signature as Signature,
    TensorSpec as TensorSpec,
)
from .embedding import embed as embed
from .errors import (
    InputError as InputError,
    LiftingError as LiftingError,
    LstmDeployError as LstmDeployError,
    MissingPackageError as MissingPackageError,
    ParityError as ParityError,
    ProviderError as ProviderError,
)
from .exporters import export as export, validate as validate
from .lifting import Origin as Origin
from .runtimes import Model as Model, Slots as Slots, Stream as Stream, open as open

__version__: str
