"""The board from the operator's side: post, answer, withdraw, list and match notices."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from kmel_p2p.agreement.errors import LocalError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.agreement.notice import (
    ContributionStatement,
    Need,
    NoticeAnswer,
    Offer,
    PayoffStatement,
    content_in,
    content_of,
    encode_content,
    kind_of,
)
from kmel_p2p.core.board.board import Board, Post, Today
from kmel_p2p.core.board.matching import matches, same_name
from kmel_p2p.core.board.notice import MAX_DAYS, MAX_SLOTS, Notice, sign
from kmel_p2p.site.observe.federation_payoff import FederationPayoff, federation_payoff, is_payoff
from kmel_p2p.site.site import Site

DAYS = 90
"""For which a notice stands, unless its author says otherwise."""

DAY_S = 86_400

EPOCH = datetime.date(1970, 1, 1)


def today() -> int:
    """In days since 1970-01-01, by this machine's clock."""
    return int(time.time()) // DAY_S


class NoticeBoard:
    """Answers what the operator asks of the board of a running peer.

    Args:
        site: as amended so far.
        board: to be read.
        alive: the other sites that are reachable now.
        command: feeds a command to the protocol.
    """

    def __init__(
        self,
        site: Callable[[], Site],
        board: Board,
        alive: Callable[[], Iterable[SiteKey]],
        command: Callable[[Any], None],
    ) -> None:
        self._site = site
        self._board = board
        self._alive = alive
        self._command = command
        self._payoff: tuple[object, FederationPayoff | None] | None = None
        """What the summary was last made from, and the summary."""

    async def answer(self, arguments: Mapping[str, Any]) -> Any:
        """Do what `arguments["do"]` says.

        Raises:
            LocalError: it cannot be done; says why and what to do.
        """
        match arguments.get("do"):
            case "list":
                return self.rows()
            case "unread":
                return self.unread()
            case "match":
                return self.matched(arguments.get("all") is True)
            case "post":
                return self._post(arguments)
            case "answer":
                return self._answer(arguments)
            case "withdraw":
                author, slot = self._own(str(arguments.get("id", "")))
                return self._sign(slot, b"", self._board.today + MAX_DAYS, author)
        raise LocalError(f"the board knows no request {arguments.get('do')!r}")

    def look(self) -> None:
        """Tell the board which day it is, when that changed: notices end with their day."""
        if today() != self._board.today:
            self._command(Today(today()))

    def keep_payoff(self, content: PayoffStatement | None) -> bool:
        """Have this site state its payoff as `content` says, once; None: not at all.

        Returns:
            whether anything was posted or withdrawn for it.

        Raises:
            LocalError: there is no slot left for it.
        """
        own = [notice for notice in self._board.book.of(self._site().identity.key) if is_payoff(notice)]
        own.sort(key=lambda notice: notice.rank)
        newest = own.pop() if own and content is not None else None
        # A further one stands where this site forgot the first, and others handed it back.
        for notice in own:
            self._sign(notice.slot, b"", self._board.today + MAX_DAYS)
        if content is None:
            return bool(own)
        body = encode_content(content)
        if newest is not None and newest.body == body and newest.until - self._board.today > DAYS // 2:
            return bool(own)
        self._sign(self._free_slot() if newest is None else newest.slot, body, self._until({}))
        return True

    def federation_payoff(self) -> FederationPayoff | None:
        """What all sites state of their payoff; made anew only when the board or the roster has changed."""
        constitution = self._site().constitution
        state = (self._board.book.digest, self._board.today, constitution)
        if self._payoff is None or self._payoff[0] != state:
            self._payoff = state, federation_payoff(self._board.standing(), constitution, self._site().assay_endpoints)
        return self._payoff[1]

    def rows(self) -> list[dict[str, Any]]:
        """See `notice_rows`."""
        return notice_rows(self._site(), self._board.standing(), self._reachable())

    def unread(self) -> list[dict[str, Any]]:
        """See `unread_rows`."""
        return unread_rows(self._site(), self._board.standing())

    def matched(self, everybody: bool) -> list[dict[str, Any]]:
        """See `match_rows`. `everybody`: also matches in which this site has no part."""
        return match_rows(self._site(), self._board.standing(), self._reachable(), everybody=everybody)

    # ---- inner --------------------------------------------------------------------------------------------------

    def _reachable(self) -> set[SiteKey]:
        return {*self._alive(), self._site().identity.key}

    def _post(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        given = arguments.get("notice")
        if not isinstance(given, Mapping):
            raise LocalError("a post has a notice")
        content = content_of(given)
        if isinstance(content, PayoffStatement):
            raise LocalError("a peer states its payoff by itself, from the comparison of its models")
        edited = str(arguments.get("edit", ""))
        if isinstance(content, ContributionStatement):
            # A second statement takes the place of the first.
            slot = self._slot_of(lambda notice: isinstance(content_in(notice.body), ContributionStatement))
        else:
            slot = self._own(edited)[1] if edited else self._free_slot()
        return self._sign(slot, encode_content(content), self._until(arguments))

    def _answer(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        author, slot = self._find(str(arguments.get("id", "")))
        if author == self._site().identity.key:
            raise LocalError("that notice is this site's own; kmel-peer board post --edit changes it")
        text, interested = str(arguments.get("text", "")), arguments.get("interested", True) is True
        content = content_of(
            {"kind": "answer", "to_site": author.hex(), "to_slot": slot, "text": text, "interested": interested}
        )
        # A second answer to the same notice takes the place of the first.
        before = self._slot_of(lambda notice: _answers(notice) == (author, slot))
        return self._sign(before, encode_content(content), self._until(arguments))

    def _sign(self, slot: int, body: bytes, until: int, author: SiteKey | None = None) -> dict[str, Any]:
        site = self._site()
        if site.identity.key not in site.constitution.roster:
            raise LocalError("this site is no longer on the roster: nobody takes its notices")
        before = self._board.book.get(site.identity.key, slot)
        # Above any version that a lost store may have had.
        version = max(int(time.time()), before.version + 1 if before is not None else 0)
        notice = sign(site.identity, site.charter.id, slot, version, until, body)
        self._command(Post(notice))
        return {"id": notice_id(site, notice), "version": version, "until": date_text(until)}

    def _until(self, arguments: Mapping[str, Any]) -> int:
        days = arguments.get("days", DAYS)
        if type(days) is not int or not 1 <= days <= MAX_DAYS:
            raise LocalError(f"a notice stands for 1 to {MAX_DAYS} days, not {days!r}")
        return self._board.today + days

    def _free_slot(self) -> int:
        """A slot that no notice of this site is in; else the oldest whose notice was withdrawn or has ended."""
        own = self._board.book.of(self._site().identity.key)
        free = [slot for slot in range(MAX_SLOTS) if slot not in {notice.slot for notice in own}]
        past = sorted((notice.version, notice.slot) for notice in own if not notice.stands(self._board.today))
        if free:
            return free[0]
        if past:
            return past[0][1]
        raise LocalError(
            f"this site has {MAX_SLOTS} notices on the board already: withdraw one, or edit it (--edit ID)"
        )

    def _slot_of(self, same: Callable[[Notice], bool]) -> int:
        """The slot of the own notice whose place a new one takes; a free one where there is none."""
        own = self._board.book.of(self._site().identity.key)
        before = next((notice.slot for notice in own if not notice.withdrawn and same(notice)), None)
        return self._free_slot() if before is None else before

    def _own(self, text: str) -> tuple[SiteKey, int]:
        author, slot = self._find(text)
        if author != self._site().identity.key:
            raise LocalError(f"notice {text} is another site's: only its author edits or withdraws it")
        if (notice := self._board.book.get(author, slot)) is not None and is_payoff(notice):
            raise LocalError(
                f"notice {text} is what this peer states of its payoff by itself: set [board] state_payoff = false in "
                "the settings and start it again, and it is withdrawn"
            )
        return author, slot

    def _find(self, text: str) -> tuple[SiteKey, int]:
        for notice in self._board.standing():
            if notice_id(self._site(), notice) == text:
                return notice.place
        raise LocalError(f"no notice {text!r} is on the board; kmel-peer board list shows them")


def notice_rows(site: Site, notices: Iterable[Notice], reachable: Collection[SiteKey]) -> list[dict[str, Any]]:
    """Plain data of all notices that this version can read, by author and slot; answers stand under what they answer,
    too.

    Args:
        notices: that stand.

    Returns:
        of each: `id`, `site`, `key`, `version`, `until` (date), `reachable`, `own`, what it says, and `answers`: for
        needs and offers the ids of answers to them.
    """
    standing = [(notice, content) for notice in notices if (content := content_in(notice.body)) is not None]
    answers: dict[tuple[SiteKey, int], list[str]] = {}
    for notice, _ in standing:
        place = _answers(notice)
        if place is not None:
            answers.setdefault(place, []).append(notice_id(site, notice))
    rows = []
    for notice, content in standing:
        row = {
            "id": notice_id(site, notice),
            "site": site.names.get(notice.author, notice.author.hex()),
            "key": notice.author.hex(),
            "version": notice.version,
            "until": date_text(notice.until),
            "reachable": notice.author in reachable,
            "own": notice.author == site.identity.key,
            **content.model_dump(mode="json"),
        }
        if isinstance(content, NoticeAnswer):
            to = SiteKey(bytes.fromhex(content.to_site))
            row["to"] = f"{site.names.get(to, to.hex())}/{content.to_slot}"
        elif isinstance(content, (Need, Offer)):
            row["answers"] = answers.get(notice.place, [])
        rows.append(row)
    return rows


def unread_rows(site: Site, notices: Iterable[Notice]) -> list[dict[str, Any]]:
    """Plain data of the notices that stand and that only a later version may read: `id`, `own` and `kind`."""
    return [
        {
            "id": notice_id(site, notice),
            "own": notice.author == site.identity.key,
            "kind": kind_of(notice.body),
        }
        for notice in notices
        if content_in(notice.body) is None
    ]


def match_rows(
    site: Site, notices: Iterable[Notice], reachable: Collection[SiteKey], *, everybody: bool
) -> list[dict[str, Any]]:
    """Plain data of what goes together, the best first: `need`, `other` (ids), `score` and `reasons` (points)."""
    posted = []
    for notice in notices:
        content = content_in(notice.body)
        if isinstance(content, (Need, Offer)):
            posted.append((notice, content))
    names = {key: rule.name for key, rule in site.constitution.roster.items()}
    found = matches(posted, names, reachable, None if everybody else site.identity.key)
    return [
        {
            "need": notice_id(site, match.need),
            "other": notice_id(site, match.other),
            "score": match.score,
            "reasons": dict(match.reasons),
        }
        for match in found
    ]


def drafted(
    site: Site, rows: Sequence[Mapping[str, Any]], ids: Sequence[str]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Sites and assay endpoints of a charter that these notices ask for.

    Returns:
        the sites (`name`, `key`, `addresses` of the roster) with this one, and the assay endpoints, each once, with the
        unit that the first notice gives.

    Raises:
        LocalError: one of `ids` is not on the board, or none of them names an assay endpoint.
    """
    by_id = {row["id"]: row for row in rows}
    missing = [text for text in ids if text not in by_id]
    if missing:
        raise LocalError(f"no notice {missing[0]!r} is on the board; kmel-peer board list shows them")
    keys = {site.identity.key, *(SiteKey(bytes.fromhex(by_id[text]["key"])) for text in ids)}
    roster = site.constitution.roster
    sites = [
        {"name": roster[key].name, "key": key.hex(), "addresses": roster[key].addresses}
        for key in sorted(keys & roster.keys(), key=lambda each: roster[each].name)
    ]
    endpoints: dict[str, str] = {}
    for text in ids:
        name = by_id[text].get("assay_endpoint", "")
        if name and not any(same_name(name, known) for known in endpoints):
            endpoints[name] = by_id[text]["unit"]
    if not endpoints:
        raise LocalError("none of these notices names an assay endpoint: add a need that does")
    return sites, endpoints


def notice_id(site: Site, notice: Notice) -> str:
    """What people call a notice: it stays the same when the notice is edited."""
    return f"{site.names.get(notice.author, notice.author.hex())}/{notice.slot}"


def date_text(day: int) -> str:
    """A day since 1970-01-01 as YYYY-MM-DD."""
    return (EPOCH + datetime.timedelta(days=day)).isoformat()


def _answers(notice: Notice) -> tuple[SiteKey, int] | None:
    content = content_in(notice.body)
    if not isinstance(content, NoticeAnswer):
        return None
    return SiteKey(bytes.fromhex(content.to_site)), content.to_slot
