"""Network addresses: `tcp://host:port` or `host:port`, IPv6 in brackets.

The address to bind and the address to advertise are separate settings: a site binds what its machine has and
advertises what others reach, which behind NAT or in a container is never the same.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from kmel_p2p.agreement.errors import ConfigError, LocalError

MAX_ADDRESS_CHARACTERS = 300
"""A DNS name has at most 253."""


@dataclass(frozen=True, slots=True)
class Address:
    """A host (name, IPv4 or IPv6 without brackets; `*` for every interface) and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"tcp://[{self.host}]:{self.port}" if ":" in self.host else f"tcp://{self.host}:{self.port}"

    @property
    def wildcard(self) -> bool:
        """Whether it means every interface of a machine rather than a place."""
        ip = self._ip()
        return self.host == "*" or (ip is not None and ip.is_unspecified)

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches it."""
        ip = self._ip()
        return self.host.lower() in ("localhost", "localhost.") or (ip is not None and ip.is_loopback)

    @property
    def link_local(self) -> bool:
        """Whether only this network segment reaches it."""
        ip = self._ip()
        return ip is not None and ip.is_link_local

    def _ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        try:
            return ipaddress.ip_address(self.host.split("%", 1)[0])
        except ValueError:
            return None


def parse_address(text: str, *, bindable: bool = False) -> Address:
    """Read an address.

    Args:
        text: `tcp://host:port` or `host:port`.
        bindable: allow `*` and port 0 (any free port).

    Raises:
        LocalError: says what is wrong with it.
    """
    if len(text) > MAX_ADDRESS_CHARACTERS:
        raise LocalError(f"address of {len(text)} characters; at most {MAX_ADDRESS_CHARACTERS} are allowed")
    scheme, separator, rest = text.partition("://")
    if not separator:
        rest = text
    elif scheme != "tcp":
        raise LocalError(f"address {text!r} has scheme {scheme!r}; only tcp:// is possible")
    host, colon, port_text = rest.rpartition(":")
    if not colon or not port_text.isascii() or not port_text.isdigit() or len(port_text) > 5:
        raise LocalError(f"address {text!r} has no port; write host:port")
    port = int(port_text)
    if not (0 if bindable else 1) <= port <= 65535:
        raise LocalError(f"address {text!r} has port {port}, which nobody can dial; ports are 1 to 65535")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if ":" not in host:
            raise LocalError(f"address {text!r}: brackets belong round IPv6 addresses only")
    elif ":" in host:
        raise LocalError(f"address {text!r}: write an IPv6 address as [{host}]:{port}")
    if not host or not all(_allowed(character) for character in host) or (host == "*" and not bindable):
        raise LocalError(f"address {text!r} has no host that can be dialled")
    return Address(host, port)


def _allowed(character: str) -> bool:
    return character.isascii() and (character.isalnum() or character in ".-_:%*")


def check_advertised(address: str, roster_is_remote: bool) -> Address:
    """The address a site tells others, checked.

    Args:
        address: as configured.
        roster_is_remote: whether any site of the roster is on another machine.

    Raises:
        ConfigError: it does not parse, or no other machine can dial it.
    """
    try:
        parsed = parse_address(address)
    except LocalError as error:
        raise ConfigError(f"advertised {error}") from None
    if parsed.wildcard:
        raise ConfigError(
            f"cannot advertise {parsed}: it means every interface of this machine, and nobody can dial that; "
            "advertise the name or IP address at which the other sites reach this one"
        )
    if roster_is_remote and (parsed.loopback or parsed.link_local):
        reach = "only this machine" if parsed.loopback else "only this network segment"
        raise ConfigError(
            f"cannot advertise {parsed}: {reach} reaches it, but the roster has sites elsewhere; advertise the "
            "name or IP address at which they reach this one, or declare this site outbound-only"
        )
    return parsed
