"""Errors, by whose fault they are.

KmelError
├── ConfigError      a file or setting of this site is wrong; the text says which, what was found and what to do
├── DataError        measurements of this site cannot be used; names file and row
├── RemoteError      a remote peer's fault: counted against it, never a crash
│   ├── WireError        bytes that do not decode, or values out of bounds
│   └── ProtocolError    well-formed, but not allowed now
├── LocalError       the caller asked for something that is not possible in this state; nothing was changed
└── Bug              an invariant of this program does not hold

Remote input raises only `RemoteError`; anything else on that path is a bug.
"""

from __future__ import annotations


class KmelError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigError(KmelError):
    """A local file or setting is wrong. The message names it and the remedy."""


class DataError(KmelError):
    """Local measurements cannot be used. The message names file and row or column."""


class RemoteError(KmelError):
    """A remote peer sent something unacceptable. No state was altered."""


class WireError(RemoteError):
    """Bytes from outside do not decode within their bounds."""


class ProtocolError(RemoteError):
    """A well-formed message that the protocol does not allow now."""


class LocalError(KmelError):
    """The caller's request does not fit the current state. No state was altered."""


class Bug(KmelError):
    """An invariant of this program is broken."""
