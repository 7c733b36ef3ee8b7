"""Real peers on this machine: one process per site, followed to the end, and a report of what each learned."""

from __future__ import annotations

from kmel_p2p.agreement.errors import KmelError


class SiteFailedError(KmelError):
    """A simulated site ended early, was not done in time, or ended with a different model from the others."""
