from . import generate as generate
from .generate import embed as embed
