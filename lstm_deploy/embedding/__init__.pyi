from . import generate as generate
from .generate import embed as embed
from .languages import LANGUAGES as LANGUAGES, Language as Language
