"""How a simulation of real peers can end other than well."""

from __future__ import annotations

from kmel_p2p.agreement.errors import KmelError


class SiteFailedError(KmelError):
    """A simulated site ended early, was not done in time, or ended with another model than the others."""
