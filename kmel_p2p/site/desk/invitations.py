"""The invitations of a site and who answered them: kept in one file, written whole before anything takes force.

Nobody takes part because of what is here. It says who asked, and what the operator decided.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Literal

import pydantic

from kmel_p2p.agreement.charter import AddressText, Key
from kmel_p2p.agreement.errors import ConfigError, LocalError
from kmel_p2p.agreement.identity import SiteKey, curve_public
from kmel_p2p.agreement.invitation import ADDRESSES, Application, Invitation, Secret, fingerprint, invitation_id
from kmel_p2p.agreement.strict import Name, StrictModel, build, parse_json
from kmel_p2p.files import private_directory, write_whole
from kmel_p2p.net.address import check_advertised

INVITATIONS_NAME = "invitations.json"

MAX_INVITATIONS = 16
"""Kept at once; the oldest that nobody answered makes room."""

MAX_USES = 64
"""Sites that one invitation may bring."""

WAITING_MAX = 4
"""Sites that may ask for each place that an invitation has left, before the operator decided on them."""

NAME_HELD_S = 86_400.0
"""A site that nobody decided on and that has not asked for so long has given up: it holds no name and no place."""

ASKED_NOTED_S = 3600.0
"""How exactly it is noted when a site last asked."""

MAX_REFUSED = 256
"""Refusals remembered; beyond it the oldest is forgotten, and has to be refused again."""

DAY_S = 86_400


class KeptInvitation(StrictModel):
    """An invitation as its site keeps it."""

    secret: Secret
    federation: Name
    addresses: Annotated[tuple[AddressText, ...], pydantic.Field(min_length=1, max_length=ADDRESSES)]
    expires: int
    uses: Annotated[int, pydantic.Field(ge=1, le=MAX_USES)]

    @property
    def id(self) -> str:
        """Its id in hex (`invitation_id`)."""
        return invitation_id(bytes.fromhex(self.secret)).hex()

    def of(self, site: str, key: SiteKey) -> Invitation:
        """As it is handed out by the site."""
        return Invitation(
            federation=self.federation,
            site=site,
            key=key.hex(),
            addresses=self.addresses,
            secret=self.secret,
            expires=self.expires,
        )


class Newcomer(StrictModel):
    """A site that answered an invitation."""

    name: Name
    key: Key
    addresses: tuple[AddressText, ...] = ()
    invitation: str
    """Id in hex."""
    signature: str
    """Of its application, in hex."""
    state: Literal["asks", "approved", "refused"] = "asks"
    asked_at: Annotated[float, pydantic.Field(ge=0)] = 0.0
    """When it last asked, to within `ASKED_NOTED_S`; seconds since 1970."""

    @property
    def site_key(self) -> SiteKey:
        """Its key, 32 bytes."""
        return SiteKey(bytes.fromhex(self.key))

    def fingerprint(self, inviting: SiteKey) -> str:
        """The digits that its operator sees, too."""
        return fingerprint(inviting, self.site_key, bytes.fromhex(self.invitation), self.signature)


class DecidedMeanwhileError(LocalError):
    """What was decided on is not what was shown any more."""


class FoundingPlan(StrictModel):
    """What `kmel-peer invite` was told of the charter to be: kept, so that it can be interrupted."""

    federation: Name
    sites: Annotated[int, pydantic.Field(ge=1, le=MAX_USES + 1)]
    """Founding sites in all, this one included."""
    endpoints: tuple[str, ...]
    trunk: str | None
    seed: int
    compounds: int | None = None
    epsilon: float | None = None
    """Of differential privacy; None: without it."""


class _Kept(StrictModel):
    invitations: tuple[KeptInvitation, ...] = ()
    newcomers: tuple[Newcomer, ...] = ()
    plan: FoundingPlan | None = None


class InvitationBook:
    """See the module docstring. Times are seconds since 1970, handed in.

    Raises:
        ConfigError: the file cannot be read, or says something else.
    """

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / INVITATIONS_NAME
        self._kept = self._read()

    # ---- what is kept -------------------------------------------------------------------------------------------

    @property
    def plan(self) -> FoundingPlan | None:
        """Of a federation that is being founded."""
        return self._kept.plan

    @property
    def newcomers(self) -> tuple[Newcomer, ...]:
        """Everybody who asked, in that order."""
        return self._kept.newcomers

    def approved(self) -> list[Newcomer]:
        """Whom the operator let in."""
        return [newcomer for newcomer in self.newcomers if newcomer.state == "approved"]

    def invitation(self, identifier: str, site: str, key: SiteKey) -> Invitation | None:
        """The invitation of that id (hex); None when it is not kept any more."""
        return next((kept.of(site, key) for kept in self._kept.invitations if kept.id == identifier), None)

    def handed_out(self, site: str, key: SiteKey) -> list[tuple[Invitation, int]]:
        """All invitations, each with the places it has left."""
        return [(kept.of(site, key), kept.uses - self._taken(kept.id)) for kept in self._kept.invitations]

    def secrets(self, now: float) -> Collection[bytes]:
        """Of the invitations whose holders may talk to the desk: not over, or somebody who came in time was let in."""
        return [
            bytes.fromhex(kept.secret) for kept in self._kept.invitations if now < kept.expires or self._taken(kept.id)
        ]

    # ---- what the operator does ---------------------------------------------------------------------------------

    def plan_founding(self, plan: FoundingPlan) -> None:
        """Keep what the charter is to be."""
        self._keep(self._kept.changed(plan=plan))

    def invite(self, federation: str, addresses: tuple[str, ...], uses: int, expires: int, secret: bytes) -> None:
        """Keep a new invitation.

        Raises:
            ConfigError: a value is not possible, or the file cannot be written.
            LocalError: too many invitations are kept already.
        """
        values = {"secret": secret.hex(), "federation": federation, "addresses": addresses[:ADDRESSES]}
        fresh = build(KeptInvitation, {**values, "expires": expires, "uses": uses}, "invitation")
        kept = list(self._kept.invitations)
        while len(kept) >= MAX_INVITATIONS:
            unused = [one for one in kept if not self._taken(one.id)]
            if not unused:
                raise LocalError(f"{MAX_INVITATIONS} invitations are in use; kmel-peer invite withdraw ends them")
            kept.remove(unused[0])
        self._keep(self._kept.changed(invitations=(*kept, fresh)))

    def withdraw(self) -> int:
        """End all invitations: who holds one and was not approved is let in no more. Returns how many there were.

        Those who were approved may still fetch what they need.
        """
        count = len(self._kept.invitations)
        used = tuple(one.changed(expires=0) for one in self._kept.invitations if self._taken(one.id))
        stay = tuple(newcomer for newcomer in self.newcomers if newcomer.state != "asks")
        self._keep(self._kept.changed(invitations=used, newcomers=stay))
        return count

    def found(self, site: str, approve: bool, shown: str = "", inviting: SiteKey | None = None) -> Newcomer:
        """The newcomer of that name or key (hex) whom the operator may approve, or refuse, now.

        Args:
            site: a name means who was not refused, if there is such a site.
            approve: whether it is to be approved; a refusal can be taken back so.
            shown: the fingerprint that the operator was shown; empty: none.
            inviting: key of this site; needed with `shown`.

        Raises:
            DecidedMeanwhileError: it asks with another fingerprint now.
            LocalError: nobody of that name asked, or it cannot be approved.
        """
        named = [one for one in self.newcomers if site in (one.name, one.key)]
        asking = [one for one in named if one.state != "refused"]
        candidates = asking or (named if approve else [])
        if not candidates:
            names = ", ".join(one.name for one in self.newcomers if one.state != "refused") or "nobody"
            raise LocalError(f"no site {site!r} asks to join; {names} did. kmel-peer invite list shows all")
        if len(candidates) > 1:
            raise LocalError(f"several sites called {site!r} were refused: approve one by its key (invite list --json)")
        found = candidates[0]
        if shown and inviting is not None and found.fingerprint(inviting) != shown:
            raise DecidedMeanwhileError(f"{found.name!r} asks anew since, with another fingerprint; compare that one")
        if approve and found.state != "approved":
            self._require_place(found)
        return found

    def decide(self, site: str, approve: bool) -> Newcomer:
        """Approve or refuse the site of that name, or of that key (hex).

        Raises:
            LocalError: as `found`.
        """
        return self._become(self.found(site, approve), "approved" if approve else "refused")

    def _require_place(self, newcomer: Newcomer) -> None:
        kept = next((one for one in self._kept.invitations if one.id == newcomer.invitation), None)
        if kept is None or self._taken(newcomer.invitation) >= kept.uses:
            raise LocalError(
                f"the invitation that {newcomer.name!r} answers has no place left; refuse it, and make it a new one "
                "with kmel-peer invite"
            )
        if any(one.name == newcomer.name and one.key != newcomer.key for one in self.newcomers if _holds_name(one)):
            raise LocalError(f"another site is called {newcomer.name!r} now: let this one join under another --name")

    # ---- what newcomers do --------------------------------------------------------------------------------------

    def apply(
        self,
        answered: bytes,
        application: Application,
        now: float,
        inviting: SiteKey,
        sites: Mapping[SiteKey, str],
    ) -> Newcomer:
        """Take an application, or find it again. While nobody has approved it, a new one takes its place.

        Args:
            answered: id of the invitation.
            application: what came.
            now: see above.
            inviting: key of this site.
            sites: key and name of this site, and of all that take part or did.

        Raises:
            LocalError: it cannot be taken; says why, to be read by the newcomer.
        """
        if not application.answers(inviting, answered):
            raise LocalError("the application is not signed with the key that it names, for this invitation")
        known = next((one for one in self.newcomers if one.key == application.key), None)
        if known is not None and known.signature == application.signature:
            return self._asked_again(known, now)
        if known is not None and known.state == "approved":
            raise LocalError(
                f"this key was approved with another application, as {known.name!r}: use that invitation, name and "
                "address, or have the operator refuse that one first"
            )
        identifier = answered.hex()
        others = [one for one in self.newcomers if one is not known and not self._gave_up(one, now)]
        self._require_room(identifier, others, now, is_refused=known is not None and known.state == "refused")
        _require_possible(application, sites)
        if any(one.name == application.name for one in others if _holds_name(one)):
            raise LocalError(
                f"another site already asked under the name {application.name!r}: choose another one, or, if it was "
                "you with a former key, ask the operator to refuse that one first"
            )
        fresh = Newcomer(
            name=application.name,
            key=application.key,
            addresses=application.addresses,
            invitation=identifier,
            signature=application.signature,
            state=known.state if known is not None else "asks",
            asked_at=now,
        )
        refused = [one for one in others if one.state == "refused"]
        forgotten = set(refused[: max(0, len(refused) - MAX_REFUSED)])
        self._keep(self._kept.changed(newcomers=(*(one for one in others if one not in forgotten), fresh)))
        return fresh

    def _require_room(self, identifier: str, others: list[Newcomer], now: float, is_refused: bool) -> None:
        kept = next((one for one in self._kept.invitations if one.id == identifier), None)
        if kept is None or now >= kept.expires:
            raise LocalError("this invitation is over; ask for a new one")
        left = kept.uses - self._taken(identifier)
        waiting = sum(one.state == "asks" and one.invitation == identifier for one in others)
        if not is_refused and (left <= 0 or waiting >= WAITING_MAX * left):
            raise LocalError("this invitation is used up; ask for a new one")

    # ---- inner --------------------------------------------------------------------------------------------------

    def _asked_again(self, newcomer: Newcomer, now: float) -> Newcomer:
        """Note that it is still there, now and then: it asks every few seconds."""
        if newcomer.state != "asks" or abs(now - newcomer.asked_at) < ASKED_NOTED_S:
            return newcomer
        noted = newcomer.changed(asked_at=now)
        self._keep(self._kept.changed(newcomers=tuple(noted if one is newcomer else one for one in self.newcomers)))
        return noted

    def _gave_up(self, newcomer: Newcomer, now: float) -> bool:
        """Whether it was never decided on and asks no more: its name and its place are for others then."""
        return newcomer.state == "asks" and now - newcomer.asked_at > NAME_HELD_S

    def _taken(self, identifier: str) -> int:
        return sum(one.state == "approved" and one.invitation == identifier for one in self.newcomers)

    def _become(self, newcomer: Newcomer, state: str) -> Newcomer:
        decided = newcomer.changed(state=state)
        changed = tuple(decided if one.key == newcomer.key else one for one in self.newcomers)
        self._keep(self._kept.changed(newcomers=changed))
        return decided

    def _read(self) -> _Kept:
        try:
            return build(_Kept, parse_json(self._path.read_bytes()), str(self._path))
        except FileNotFoundError:
            return _Kept()
        except (OSError, ValueError, ConfigError, TypeError) as error:
            raise ConfigError(
                f"{self._path}: cannot be read: {error}. It says whom this site has invited; restore it, or move it "
                "away and invite anew"
            ) from None

    def _keep(self, kept: _Kept) -> None:
        private_directory(self._path.parent)
        write_whole(self._path, json.dumps(kept.model_dump(mode="json"), indent=1).encode())
        self._kept = kept


def _holds_name(newcomer: Newcomer) -> bool:
    return newcomer.state != "refused"


def _require_possible(application: Application, sites: Mapping[SiteKey, str]) -> None:
    """A site that every charter can list, beside `sites`.

    Raises:
        LocalError: it cannot be one; says why.
    """
    if application.site_key in sites:
        raise LocalError(f"this key is that of {sites[application.site_key]!r} already: a new site needs its own")
    if application.name in sites.values():
        raise LocalError(f"a site of this federation is called {application.name!r}, or was: choose another --name")
    curve_public(application.site_key)
    for address in application.addresses:
        try:
            check_advertised(address, roster_is_remote=False)
        except ConfigError as error:
            raise LocalError(str(error)) from None
