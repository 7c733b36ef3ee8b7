"""The pages that a peer serves beside its status page: contributions and board."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kmel_p2p.site.notice_board import NoticeBoard
from kmel_p2p.site.observe.board_page import board_page, language
from kmel_p2p.site.observe.contribution import contribution_page, contribution_report
from kmel_p2p.site.site import Site
from kmel_p2p.site.trainer.contribution_book import ContributionBook


def pages_of(
    site: Callable[[], Site], book: ContributionBook, board: NoticeBoard
) -> Mapping[str, Callable[[str], str]]:
    """Path -> what makes the page, given what follows the question mark."""
    return {
        "/contribution": lambda query: contribution_page(contribution_report(site(), book)),
        "/board": lambda query: board_page(board.rows(), board.matched(everybody=True), language(query)),
    }
