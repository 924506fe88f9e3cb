"""How many examples property tests take."""

import hypothesis


def examples(few: int) -> int:
    """How many examples a property takes that needs long for each: five times as many in the profile `deep`."""
    return few * hypothesis.settings.default.max_examples // 100
