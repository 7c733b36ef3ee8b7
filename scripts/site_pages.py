"""Hook of mkdocs: the pages at the top of the repository belong to the site, too, and links follow them there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
AT_THE_TOP = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages at the top as if they lay in docs/."""
    for name in AT_THE_TOP:
        text = (ROOT / name).read_text("utf-8")
        files.append(File.generated(config, name, content=_as_in_docs(text)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links of docs/ that lead to the top."""
    names = "|".join(map(re.escape, AT_THE_TOP))
    depth = page.file.src_uri.count("/")
    return re.sub(rf"\]\((?:\.\./){{{depth + 1}}}({names})", lambda found: f"]({'../' * depth}{found[1]}", markdown)


def _as_in_docs(text: str) -> str:
    """Links of a page at the top, seen from docs/."""
    return re.sub(r"\]\(docs/", "](", text)
