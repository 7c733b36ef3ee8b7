"""What every page that this program serves to a browser keeps to: the headers it sends and the hosts it answers."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from pathlib import Path

from kmel_p2p.agreement.errors import ConfigError

NO_SOURCES = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""Content security policy of answers that are no pages: nothing runs and nothing is loaded."""


MIN_TOKEN = 20
"""Characters of a token; a random one of this length cannot be guessed."""


def guards(policy: str) -> list[tuple[str, str]]:
    """Headers of every answer: whatever text got onto a page, a browser runs and loads only what the policy names.

    Args:
        policy: Content-Security-Policy.
    """
    return [
        ("Content-Security-Policy", policy),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
    ]


def name_this_machine(hosts: Iterable[str]) -> bool:
    """Whether a request's Host headers name this machine by address, by `localhost`, or not at all.

    A page on the web can have its own name resolve to loopback (DNS rebinding) and read what a browser fetches from
    there; but then the request carries that name.
    """
    for host in hosts:
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        try:
            ipaddress.ip_address(name)
        except ValueError:
            if name.lower() != "localhost":
                return False
    return True


def read_token(path: Path | None) -> str:
    """The token in a file; empty without a file.

    Raises:
        ConfigError: it cannot be read, or could be guessed.
    """
    if path is None:
        return ""
    try:
        text = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    if len(text) < MIN_TOKEN or not text.isascii() or not text.isprintable() or " " in text:
        raise ConfigError(
            f"{path}: a token has {MIN_TOKEN} or more letters and digits and no blank, such as those of "
            "`openssl rand -hex 20`"
        )
    return text
