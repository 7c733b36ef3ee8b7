"""Templates of pages, and the one style that all of them have. Loads neither torch nor RDKit."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2
import markupsafe

from kmel_p2p.agreement.shown import shown

SHARED = "kmel_p2p.web"
"""Package with what several pages include: layout, style, and the section that explains one compound."""

Filters = Mapping[str, Callable[..., Any]]


def page(package: str, template: str, values: Mapping[str, object], filters: Filters | None = None) -> str:
    """A page from a template of a package.

    All that is filled in is escaped, and has its control characters written out, but for `markupsafe.Markup`.

    Args:
        filters: name -> function, for this page.
    """
    return _environment(package, tuple((filters or {}).items())).get_template(template).render(**values)


def block(package: str, template: str, name: str, values: Mapping[str, object], filters: Filters | None = None) -> str:
    """What one block of a template makes: the part of a page that changes while it is looked at."""
    found = _environment(package, tuple((filters or {}).items())).get_template(template)
    return "".join(found.blocks[name](found.new_context(dict(values))))


def style(*more: tuple[str, str]) -> str:
    """The style sheet of all pages; after it those of single pages, as (package, file name)."""
    parts: Sequence[tuple[str, str]] = ((SHARED, "style.css"), *more)
    return "".join(resources.files(package).joinpath(name).read_text("utf-8") for package, name in parts)


def script() -> str:
    """What keeps a page up to date while it is looked at."""
    return resources.files(SHARED).joinpath("live.js").read_text("utf-8")


def _plain(value: Any) -> Any:
    """Control characters of others, such as those that turn the direction of text, are written out on a page, too."""
    return shown(value) if type(value) is str else value


@functools.lru_cache(16)
def _environment(package: str, filters: tuple[tuple[str, Callable[..., Any]], ...]) -> jinja2.Environment:
    """Kept, so that a page that is looked at is compiled once."""
    folders = [str(resources.files(name)) for name in dict.fromkeys((package, SHARED))]
    loader = jinja2.FileSystemLoader(folders)
    made = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_plain)
    made.filters.update(filters)
    # A style sheet is included as it is: CSS has quotes, and no text of anybody.
    made.globals["style"] = lambda *more: markupsafe.Markup(style(*more))
    return made
