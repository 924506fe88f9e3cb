from . import generate as generate
from .generate import embed as embed, languages_of as languages_of
from .languages import (
    LANGUAGES as LANGUAGES,
    Language as Language,
    c_literal as c_literal,
    python_literal as python_literal,
)
