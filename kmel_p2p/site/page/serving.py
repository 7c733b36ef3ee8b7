"""Gathers what a running daemon's page shows, and serves it where the settings say so.

Everything that it takes to serve is loaded only then: a peer without a page stays as light as it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from kmel_p2p.site.config import MetricsSection
from kmel_p2p.site.final_models import FinalModels
from kmel_p2p.site.modes import mode_of
from kmel_p2p.site.notice_board import NoticeBoard
from kmel_p2p.site.observe.activity import Activity
from kmel_p2p.site.observe.audit import Audit
from kmel_p2p.site.observe.course import Course
from kmel_p2p.site.observe.status import StatusDocument
from kmel_p2p.site.site import Site
from kmel_p2p.site.state.orders import OrderBook
from kmel_p2p.site.trainer.contribution_book import ContributionBook
from kmel_p2p.web.local_pages import read_token

if TYPE_CHECKING:
    from kmel_p2p.site.page.app import PeerPages
    from kmel_p2p.site.page.view import Facts

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class PageParts:
    """The parts of a daemon that its page reads."""

    site: Callable[[], Site]
    status: Callable[[], StatusDocument]
    activity: Activity
    course: Course
    audit: Audit
    orders: OrderBook
    final_models: FinalModels
    book: ContributionBook
    board: NoticeBoard

    def facts(self, status: StatusDocument) -> Facts:
        """As of now; what is handed over does not change."""
        from kmel_p2p.site.page.view import Facts

        activity, site = self.activity, self.site()
        held = (activity.held, len(activity.trained_payload), activity.held_age_s) if activity.held else None
        return Facts(
            at=time.time(),
            status=status,
            samples=list(self.course.samples),
            rounds=list(self.course.rounds),
            sent=self.course.sent(status),
            today=dict(self.audit.today.totals),
            result=self.final_models.last_result,
            held=held,
            asks=site.config.ledger.hold,
            approved_until=self.orders.orders.approved_until,
            exposes=mode_of(site.charter).exposes,
        )

    async def serve(self, settings: MetricsSection) -> PeerPages | None:
        """Serve the page at the address of the settings; None where there is none.

        Raises:
            ConfigError: the address cannot be bound, or the token cannot be read.
        """
        if not settings.listen:
            return None
        from kmel_p2p.site.observe.contribution import contribution_report
        from kmel_p2p.site.page.app import PeerPages, Sources

        sources = Sources(
            status=self.status,
            events=self.activity.events,
            facts=self.facts,
            contribution=lambda: contribution_report(self.site(), self.book),
            board=lambda: (self.board.rows(), self.board.matched(everybody=True)),
        )
        pages = PeerPages(sources, read_token(settings.token_file))
        host, _, port = settings.listen.rpartition(":")
        bound = await pages.start(host.strip("[]"), int(port))
        log.info("page", address=f"http://{host}:{bound}/", token=settings.token_file is not None)
        return pages
