"""The one way in which Jinja templates are read: of C, of clients and of reports."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


def template_environment(package: str, filters: Mapping[str, Any]) -> "Environment":
    """The templates in the folder `templates` of a package; a variable that is not given is an error.

    Lines of tags alone leave no trace, and what goes into HTML is escaped.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(package),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
        autoescape=lambda name: name is not None and ".html" in name,
    )
    environment.filters |= filters
    return environment
