"""What the campaign in force means for one site: its settings, how many entries it may publish, when it begins.

A campaign begins at a site when its amendment is there, and that is not everywhere at once. So before the first entry
of a later campaign a site waits for those in sight that take part, for a limited time: who began alone would train
long on a trunk that nobody else moves.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from kmel_p2p.agreement.amendment import Constitution
from kmel_p2p.agreement.campaign import Campaign
from kmel_p2p.agreement.charter import Charter
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.ledger.late_founders import LateFounders
from kmel_p2p.core.ledger.log.ledger import Ledger
from kmel_p2p.core.rounds.settings import RoundSettings
from kmel_p2p.core.rounds.states import End, Wait
from kmel_p2p.core.types import SECOND, Micros

BEGINS_WITHIN_US: Micros = 60 * SECOND
"""An amendment reaches everybody in sight within seconds; who still reads its data by then may come later."""


class OwnCampaign:
    """See the module docstring.

    Args:
        own: the site.
        charter: the federation's.
        ledger: with the constitution in force, and the logs.
        now: monotonic time.
    """

    def __init__(self, own: SiteKey, charter: Charter, ledger: Ledger, now: Micros) -> None:
        self._own = own
        self._ledger = ledger
        self._charter = charter
        self._late_founders: dict[SiteKey, LateFounders] = {}
        self._seen = self._opened_by
        self._since_us = self._looked_us = now

    @property
    def now(self) -> Campaign:
        """The campaign in force."""
        return self._constitution.campaign

    @property
    def entry_limit(self) -> int:
        """Entries that this site may publish in all, with what late founders add to the first campaign."""
        return self.most_of(self._own)

    def most_of(self, site: SiteKey) -> int:
        """The same of any site: what it may publish follows from headers that all hold."""
        campaign = self.now
        limit = campaign.limit_of(site)
        if campaign.number > 1:
            return limit
        if site not in self._late_founders:
            self._late_founders[site] = LateFounders(site, self._charter, self._ledger)
        return limit + self._late_founders[site].added(limit)

    @property
    def before(self) -> int:
        """Own entries of earlier campaigns."""
        return self.now.before(self._own)

    @property
    def has_begun(self) -> bool:
        """Whether anybody's entry of this campaign is here."""
        campaign = self.now
        return any(number > campaign.before(author) for author, number in self._ledger.vector.items())

    @property
    def may_begin(self) -> bool:
        """Whether a later campaign is so young that its first entry may be on its way: then it is not over."""
        young = self._looked_us < self._since_us + BEGINS_WITHIN_US
        return young and self.now.number > 1 and not self.has_begun

    def sits_out(self) -> End | None:
        """This site has no part in the campaign, as its amendment says."""
        campaign = self.now
        left_out = self._own in campaign.sits_out
        return End(f"this site sits campaign {campaign.number} out, as its amendment says") if left_out else None

    def settings(self, settings: RoundSettings) -> RoundSettings:
        """What holds in this campaign of what the charter says about rounds."""
        campaign = self.now
        return replace(
            settings,
            entry_limit=campaign.entries,
            steps_per_entry=campaign.averaging.steps_per_entry,
            max_lead=campaign.pace.max_lead,
            patience=campaign.pace.patience,
        )

    def changed(self, now: Micros) -> bool:
        """Whether another campaign is in force than at the last look. Called at every turn.

        The next one, or another of that number, or an earlier one again: rival amendments open campaigns and take them
        back.
        """
        self._looked_us = now
        before, self._seen = self._seen, self._opened_by
        if before == self._seen:
            return False
        self._since_us = now
        return True

    def wait(self, alive: Iterable[SiteKey], training: Iterable[SiteKey]) -> Wait | None:
        """The wait before the first entry of a later campaign.

        Args:
            alive: other sites in sight that may take part.
            training: those of them that can train.
        """
        campaign, until_us = self.now, self._since_us + BEGINS_WITHIN_US
        if not self.may_begin:
            return None
        awaited = sorted(set(alive) - set(training) - campaign.sits_out)
        if not awaited:
            return None
        reason = f"campaign {campaign.number} begins when the sites in sight are ready"
        return Wait(reason, tuple(awaited), until_us, kind="start", until_begin=True)

    @property
    def _opened_by(self) -> bytes:
        """Hash of the amendment that opened the campaign in force; zeros for the charter."""
        return self._constitution.hash_at(self.now.amendment)

    @property
    def _constitution(self) -> Constitution:
        assert self._ledger.constitution is not None, "a ledger that is averaged has a constitution"
        return self._ledger.constitution

    def deadline(self) -> Micros | None:
        """When time alone ends that wait."""
        return self._since_us + BEGINS_WITHIN_US if self.may_begin else None
