"""The report of shares: what the charter's rule makes of the statements on the board, with them, signed by a site.

Everybody who holds the same statements writes the same bytes up to the signature; `body_digest` is what people compare.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kmel_p2p.agreement.amendment import Constitution
from kmel_p2p.agreement.canonical import canonical
from kmel_p2p.agreement.charter import Charter, signature_is_good
from kmel_p2p.agreement.errors import LocalError, WireError
from kmel_p2p.agreement.identity import Identity, SiteKey, digest
from kmel_p2p.agreement.notice import ContributionStatement, content_in
from kmel_p2p.agreement.reward import WHOLE, reward_shares
from kmel_p2p.agreement.strict import parse_json
from kmel_p2p.core.board.notice import MAX_NOTICE_BYTES, Notice, decode

SIGNING_CONTEXT = b"kmel shares 1"

SCHEMA = 1

MAX_REPORT_BYTES = 32 * 1024 * 1024
"""Of a file that is read: a statement of every site that a charter may list, in hex."""


def statements_on(
    notices: Iterable[Notice], roster: Iterable[SiteKey]
) -> dict[SiteKey, tuple[Notice, ContributionStatement]]:
    """The newest statement of each site of `roster` that has one on the board, and what it says."""
    current, found = frozenset(roster), dict[SiteKey, tuple[Notice, ContributionStatement]]()
    for notice in notices:
        before = found.get(notice.author)
        if notice.withdrawn or notice.author not in current or (before and notice.rank <= before[0].rank):
            continue
        content = content_in(notice.body)
        if isinstance(content, ContributionStatement):
            found[notice.author] = notice, content
    return found


def report_body(charter: Charter, constitution: Constitution, notices: Iterable[Notice]) -> dict[str, Any]:
    """What is signed: plain data that follows from its arguments alone.

    Returns:
        `schema`, `federation`, `charter` (id), `amendment` (number), `rule`, `statements` (site's key -> signed
        statement, both in hex), `shares` (site's key -> parts of 10,000) and `names` (of sites, by key).

    Raises:
        LocalError: the charter names no shares, or no site has stated anything.
    """
    if not charter.reward.on:
        raise LocalError("the charter names no shares: it has no [reward] with shares = 'stated'")
    roster, measure = sorted(constitution.roster), charter.reward.measure
    held = statements_on(notices, roster)
    fitting = {key: content for key, (_, content) in held.items() if content.measure == measure}
    if not fitting:
        raise LocalError(
            "no site has stated what contributions were worth to it; kmel-peer contribution declare does, at each site"
        )
    shares = reward_shares(charter.reward, roster, fitting)
    return {
        "schema": SCHEMA,
        "federation": charter.federation,
        "charter": charter.id.hex(),
        "amendment": constitution.number,
        "rule": charter.reward.model_dump(mode="json"),
        "statements": {key.hex(): held[key][0].encode().hex() for key in sorted(fitting)},
        "shares": {key.hex(): shares[key] for key in roster},
        "names": {key.hex(): constitution.roster[key].name for key in roster},
    }


def body_digest(body: Mapping[str, Any]) -> str:
    """Of what is signed, 64 hex digits."""
    return digest(canonical(dict(body))).hex()


def signed_report(body: Mapping[str, Any], identity: Identity) -> dict[str, Any]:
    """The report as a site's own."""
    signature = identity.sign(SIGNING_CONTEXT, canonical(dict(body)))
    return {**body, "signer": identity.key.hex(), "signature": signature.hex()}


def checked_report(path: Path, charter: Charter, constitution: Constitution) -> dict[str, Any]:
    """Read a report from anybody, and make it again from the statements in it.

    Raises:
        LocalError: names the file and what is wrong: another charter or roster, a statement or the report that is not
            signed by whom it names, or shares that do not follow.
    """
    report = _read(path)
    signer, signature = str(report.pop("signer", "")), str(report.pop("signature", ""))
    if report.get("charter") != charter.id.hex() or report.get("amendment") != constitution.number:
        raise LocalError(
            f"{path}: it is of another charter, or of amendment {report.get('amendment')!r:.64} where "
            f"{constitution.number} is in force here"
        )
    names = {key.hex(): rule.name for key, rule in constitution.roster.items()}
    if signer not in names:
        raise LocalError(f"{path}: it is signed by nobody on the roster ({signer[:64]!r})")
    made = report_body(charter, constitution, _statements(path, report, charter.id))
    if canonical(made) != canonical(report):
        wrong = next((name for name in made if made[name] != report.get(name)), "its keys")
        raise LocalError(f"{path}: {wrong} do not follow from the statements in it")
    if not signature_is_good(SiteKey(bytes.fromhex(signer)), SIGNING_CONTEXT, canonical(made), signature):
        raise LocalError(f"{path}: the signature is not that of {names[signer]}")
    return {**made, "signer": signer, "signature": signature}


def percent(share: int) -> str:
    """Parts of 10,000 as people read them."""
    return f"{100 * share / WHOLE:.2f} %"


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_REPORT_BYTES:
            raise LocalError(f"{path}: no report of shares is larger than {MAX_REPORT_BYTES} bytes")
        report = parse_json(path.read_bytes())
        canonical(report)
    except OSError as error:
        raise LocalError(f"{path}: {error.strerror or error}") from None
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise LocalError(f"{path}: not a report of shares") from None
    if not isinstance(report, dict) or not isinstance(report.get("statements"), dict):
        raise LocalError(f"{path}: not a report of shares")
    return report


def _statements(path: Path, report: Mapping[str, Any], charter_id: bytes) -> list[Notice]:
    found = []
    for key, text in report["statements"].items():
        try:
            if not isinstance(text, str) or len(text) > 2 * MAX_NOTICE_BYTES:
                raise WireError("not a notice")
            notice = decode(bytes.fromhex(text))
            if notice.withdrawn:
                raise WireError("says nothing")
        except (WireError, ValueError):
            raise LocalError(f"{path}: the statement under {key[:64]!r} cannot be read") from None
        if notice.author.hex() != key or not notice.is_signed(charter_id):
            raise LocalError(f"{path}: the statement under {key[:64]!r} is not signed by that site")
        found.append(notice)
    return found
