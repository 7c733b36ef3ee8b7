"""What a site says about itself, signed by itself.

`alive`, `left` and addresses travel only inside a descriptor, so nobody else can forge them. A descriptor is newer
than another when its (generation, serial) is larger: generation counts process starts and is persisted, serial counts
refutations and changes within one start.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import msgpack

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.identity import SIGNATURE_BYTES, SiteKey

CONTEXT = b"kmel descriptor 1"
MAX_ADDRESSES = 8
MAX_ADDRESS_CHARS = 128
MAX_SOFTWARE_CHARS = 48
MAX_SIZE_CLASS = 63
GENERATION_MAX = 2**53 - 1
SERIAL_MAX = 2**32 - 1
NONCE_BYTES = 8
"""Drawn at random at each start of a process: tells two processes with one key apart."""
MAX_DESCRIPTOR_BYTES = 640
"""Encoded bound. Two fit into the smallest message budget, and one is a modest part of a frame."""

HANDLE_BYTES = 8
"""Leading key bytes that name a site inside an accusation: unique within any real roster, a quarter of the size."""

Verifier: TypeAlias = Callable[[SiteKey, bytes, bytes, bytes], bool]
"""(key, context, message, signature) -> whether the key signed it."""


class Signer(Protocol):
    """The part of an identity that membership needs."""

    @property
    def key(self) -> SiteKey: ...
    def sign(self, context: bytes, message: bytes) -> bytes: ...


@dataclass(frozen=True, slots=True)
class RosterSite:
    """One partner site as the charter lists it."""

    key: SiteKey
    name: str
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OwnDescription:
    """What this peer will say about itself. `generation` is larger at every process start."""

    generation: int
    addresses: tuple[str, ...] = ()
    size_class: int = 0
    outbound_only: bool = False
    software: str = ""
    nonce: bytes = b""
    """Random, of this start of the process; empty where nobody has to tell starts apart."""
    outranks: bytes = b""
    """Nonce of another start that this one has met."""
    decided: bool = False
    """Whether the operator chose this start where the other one runs, too."""


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A site's signed statement about itself. `left` says that it went away on purpose."""

    key: SiteKey
    generation: int
    serial: int
    left: bool
    addresses: tuple[str, ...]
    size_class: int
    outbound_only: bool
    software: str
    nonce: bytes
    outranks: bytes
    decided: bool
    signature: bytes


def make_descriptor(
    signer: Signer, charter_id: bytes, own: OwnDescription, serial: int, left: bool = False
) -> Descriptor:
    """Sign `own` at `serial`."""
    unsigned = Descriptor(
        signer.key, own.generation, serial, left, own.addresses, own.size_class, own.outbound_only,
        own.software, own.nonce, own.outranks, own.decided, bytes(SIGNATURE_BYTES),
    )  # fmt: skip
    signature = signer.sign(CONTEXT, signed_bytes(unsigned, charter_id))
    return Descriptor(
        signer.key, own.generation, serial, left, own.addresses, own.size_class, own.outbound_only,
        own.software, own.nonce, own.outranks, own.decided, signature,
    )  # fmt: skip


def signed_bytes(descriptor: Descriptor, charter_id: bytes) -> bytes:
    """The bytes under the signature: everything said, and the charter under which it is said."""
    packed: bytes = msgpack.packb(
        [
            charter_id, descriptor.key, descriptor.generation, descriptor.serial, descriptor.left,
            list(descriptor.addresses), descriptor.size_class, descriptor.outbound_only, descriptor.software,
            descriptor.nonce, descriptor.outranks, descriptor.decided,
        ]
    )  # fmt: skip
    return packed


def is_authentic(descriptor: Descriptor, charter_id: bytes, verify: Verifier) -> bool:
    """Whether the site itself signed `descriptor` under this charter."""
    return verify(descriptor.key, CONTEXT, signed_bytes(descriptor, charter_id), descriptor.signature)


def prove_twins(one: Descriptor, other: Descriptor) -> bool:
    """Whether two authentic descriptors show that two processes run with one key at once.

    Each says that it has met the other: a process that is gone cannot have met one that was started after it.
    """
    met = one.outranks == other.nonce and other.outranks == one.nonce
    return one.key == other.key and met and bool(one.nonce) and bool(other.nonce) and one.nonce != other.nonce


def check_own(own: OwnDescription, roster: Iterable[RosterSite]) -> None:
    """Refuse a description that others could not use.

    Raises:
        ConfigError: says which value, and what to write instead.
    """
    if not 0 <= own.generation <= GENERATION_MAX:
        raise ConfigError(f"generation {own.generation} is outside [0, {GENERATION_MAX}]; restore the state directory")
    if not 0 <= own.size_class <= MAX_SIZE_CLASS:
        raise ConfigError(f"size class {own.size_class} is outside [0, {MAX_SIZE_CLASS}]")
    if len(own.software) > MAX_SOFTWARE_CHARS:
        raise ConfigError(f"software name has {len(own.software)} characters; at most {MAX_SOFTWARE_CHARS} are allowed")
    if len(own.addresses) > MAX_ADDRESSES:
        raise ConfigError(f"{len(own.addresses)} addresses to advertise; at most {MAX_ADDRESSES} are allowed")
    if sum(len(address.encode()) + 2 for address in own.addresses) > MAX_DESCRIPTOR_BYTES - 200:
        raise ConfigError("the addresses to advertise are too long together; advertise fewer or shorter ones")
    remote = not loopback_federation(roster)
    for address in own.addresses:
        fault = address_fault(address, remote)
        if fault:
            raise ConfigError(f"address to advertise {address!r} {fault}")


def loopback_federation(roster: Iterable[RosterSite]) -> bool:
    """Whether every address of the roster is a loopback one: all sites on one machine, as in a demonstration."""
    return all(_loopback(_host(address)) for site in roster for address in site.addresses)


def address_fault(address: str, remote: bool) -> str | None:
    """Why `address` is of no use to others, or None. With `remote`, loopback addresses are of no use either."""
    if not address.startswith("tcp://"):
        return "does not start with tcp://; write tcp://HOST:PORT"
    if len(address) > MAX_ADDRESS_CHARS:
        return f"is longer than {MAX_ADDRESS_CHARS} characters"
    port = address.rpartition(":")[2]
    if not port.isascii() or not port.isdigit() or not 0 < int(port[:6]) < 65536:
        return "has no port between 1 and 65535"
    host = _host(address)
    if not host or host == "*" or _ip(host, "is_unspecified"):
        return "is a wildcard; set the address that other sites reach"
    if remote and _loopback(host):
        return "is a loopback address but other sites are remote; set the address that other sites reach"
    return None


def usable_addresses(descriptor: Descriptor, remote: bool) -> tuple[str, ...]:
    """The descriptor's addresses that can be dialled; a container's 0.0.0.0 or 127.0.0.1 is left out."""
    return tuple(a for a in descriptor.addresses if address_fault(a, remote) is None)


def _host(address: str) -> str:
    return address.removeprefix("tcp://").rpartition(":")[0].strip("[]")


def _loopback(host: str) -> bool:
    return host == "localhost" or _ip(host, "is_loopback")


def _ip(host: str, question: str) -> bool:
    try:
        return bool(getattr(ipaddress.ip_address(host), question))
    except ValueError:
        return False
