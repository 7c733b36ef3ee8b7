"""The text of a charter file when a signature is added: what people wrote in it, comments included, stays as it is."""

from __future__ import annotations

import tomli_w

from kmel_p2p.agreement.charter import CharterDocument
from kmel_p2p.agreement.errors import ConfigError

TABLE = "signatures"


def signed_text(text: str, document: CharterDocument) -> str:
    """`text`, which is a charter file, with the signatures of `document` in it, and nothing else changed.

    Where the file writes its signatures in an unusual way, the whole document is written anew, below the comments
    that the file begins with.
    """
    kept = _without_table(text).rstrip("\n")
    signatures = tomli_w.dumps({TABLE: dict(sorted(document.signatures.items()))})
    whole = f"{kept}\n\n{signatures}"
    try:
        if CharterDocument.parse(whole, "charter") == document:
            return whole
    except ConfigError:
        pass
    return heading(text) + document.render()


def heading(text: str) -> str:
    """The comments that a charter file begins with: why its settings are what they are."""
    lines = text.splitlines()
    end = next((at for at, line in enumerate(lines) if line.strip() and not line.startswith("#")), len(lines))
    return "".join(f"{line}\n" for line in lines[:end])


def _without_table(text: str) -> str:
    """Without the table of signatures, which reaches to the next table or the end."""
    kept, inside = [], False
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("["):
            inside = stripped.split("#")[0].strip() == f"[{TABLE}]"
        if not inside:
            kept.append(line)
    return "\n".join(kept)
