"""Templates of pages that show explanations; loads neither torch nor RDKit."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources

import jinja2

SHARED = "kmel_p2p.learn.predict"
"""Package with the templates that several pages import: `explanation_card.html` and `explanation_style.css`."""


def page(package: str, template: str, values: Mapping[str, object]) -> str:
    """A page from a template of a package. Everything filled in is escaped, but `markupsafe.Markup`."""
    folders = [str(resources.files(name)) for name in dict.fromkeys((package, SHARED))]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(**values)
