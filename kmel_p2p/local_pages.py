"""What every page that this program serves to a browser keeps to: the headers it sends and the hosts it answers."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

NO_SOURCES = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""Content security policy of answers that are no pages: nothing runs and nothing is loaded."""


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
