"""Numbers as C expressions."""

from typing import Any

import numpy as np


def literal(number: Any) -> str:
    """A number of NumPy as a C expression of its type, which can stand after any operator."""
    if isinstance(number, np.bool_ | bool):
        return str(int(number))
    if isinstance(number, np.integer | int):
        if int(number) == -(2**63):
            return "INT64_MIN"
        text = str(int(number)) if abs(int(number)) < 2**31 else f"INT64_C({int(number)})"
        return f"({text})" if number < 0 else text
    if np.isnan(number):
        return "NAN"
    if np.isinf(number):
        return "INFINITY" if number > 0 else "(-INFINITY)"
    text = f"{number:.9g}" if number.dtype == np.float32 else f"{number:.17g}"
    text = text if set(text) & set(".e") else f"{text}.0"
    text = f"{text}f" if number.dtype == np.float32 else text
    return f"({text})" if number < 0 else text
