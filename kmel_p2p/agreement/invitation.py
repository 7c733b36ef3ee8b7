"""An invitation to a federation as one line of text, and what a site answers it with.

The text names the site that invites, its key and addresses, and carries a secret. Who has the text may talk to that
site's desk (`net.desk`) and to nothing else; the operator there still decides who takes part. Both sides show the same
*fingerprint*, which two people compare: it stands for both keys and for all that the newcomer asks with, so nobody
between them can take either's place.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Annotated, Self

import msgpack
import pydantic

from kmel_p2p.agreement.canonical import canonical, unpack_bounded
from kmel_p2p.agreement.charter import AddressText, Key
from kmel_p2p.agreement.errors import ConfigError, KmelError
from kmel_p2p.agreement.identity import Identity, SiteKey, curve_public, digest, verify
from kmel_p2p.agreement.in_words import worded_pattern
from kmel_p2p.agreement.strict import Name, StrictModel, build

FORM = 1
PREFIX = f"kmel-invitation-{FORM}:"

MAX_INVITATION_CHARACTERS = 8192
"""Of the text, with the blanks and quotation marks that a mail may add."""

SECRET_BYTES = 16
"""Nobody guesses it: each guess costs a handshake with the peer that made it."""

ADDRESSES = 4
"""Addresses in a text; more would make it long."""

FINGERPRINT_GROUPS, GROUP_DIGITS = 5, 4
"""20 digits, 66 bits. The newcomer's signature is in them, which nobody foresees before the text is fixed: whoever is
between the two has to hit the digits of one side, and cannot vary both until any two of them meet (33 bits)."""

_INVITATION = b"kmel invitation 1"
_APPLICATION = b"kmel application 1"

Secret = Annotated[str, worded_pattern(rf"^[0-9a-f]{{{2 * SECRET_BYTES}}}$", f"{2 * SECRET_BYTES} hex digits")]


def invitation_id(secret: bytes) -> bytes:
    """Names the invitation with this secret without telling it, 16 bytes."""
    return digest(b"kmel invitation id 1", secret)[:16]


class Invitation(StrictModel):
    """What a site hands out to those whom it invites."""

    federation: Name
    site: Name
    """Who invites."""
    key: Key
    """Its key."""
    addresses: Annotated[tuple[AddressText, ...], pydantic.Field(min_length=1, max_length=ADDRESSES)]
    """Where its peer is reached."""
    secret: Secret
    expires: Annotated[int, pydantic.Field(ge=0, le=2**40)]
    """Seconds since 1970 from which on nobody new is let in."""

    @property
    def site_key(self) -> SiteKey:
        """Key of the site that invites, 32 bytes."""
        return SiteKey(bytes.fromhex(self.key))

    @property
    def id(self) -> bytes:
        """Names the invitation without telling its secret, 16 bytes."""
        return invitation_id(bytes.fromhex(self.secret))

    def render(self, identity: Identity) -> str:
        """The text, signed by the site that invites."""
        body = self._body()
        packed = msgpack.packb([body, identity.sign(_INVITATION, body)], use_bin_type=True)
        return PREFIX + base64.urlsafe_b64encode(packed).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a text, as a mail may have broken it into lines and quoted it.

        Raises:
            ConfigError: it is no whole, unaltered invitation; says what to do.
        """
        if len(text) > MAX_INVITATION_CHARACTERS:
            raise ConfigError(f"an invitation has at most {MAX_INVITATION_CHARACTERS} characters; paste nothing else")
        joined = re.sub(r"[\s>'\"]+", "", text)
        form = re.match(r"kmel-invitation-(\d{1,9}):", joined)
        if form is not None and int(form[1]) != FORM:
            raise ConfigError(
                f"this invitation is of version {int(form[1])}, and this kmel-peer reads version {FORM}: "
                f"{'the one that made it' if int(form[1]) < FORM else 'this one'} has to be upgraded"
            )
        if not joined.startswith(PREFIX):
            raise ConfigError(f"this is no invitation: one begins with {PREFIX}; paste the whole of it")
        damaged = "this invitation is not whole, or was changed on its way; paste all of it, or ask for it again"
        try:
            encoded = joined.removeprefix(PREFIX)
            packed = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
            body, signature = unpack_bounded(packed, MAX_INVITATION_CHARACTERS)
            federation, site, key, addresses, secret, expires = unpack_bounded(body, MAX_INVITATION_CHARACTERS)
            values = {"federation": federation, "site": site, "addresses": addresses, "expires": expires}
            invitation = build(cls, {**values, "key": key.hex(), "secret": secret.hex()}, "invitation")
            curve_public(invitation.site_key)
            signed = verify(invitation.site_key, _INVITATION, body, signature)
        except (binascii.Error, KmelError, ValueError, TypeError, AttributeError) as error:
            raise ConfigError(damaged) from error
        if not signed:
            raise ConfigError(damaged)
        return invitation

    def _body(self) -> bytes:
        key, secret = bytes.fromhex(self.key), bytes.fromhex(self.secret)
        return canonical([self.federation, self.site, key, list(self.addresses), secret, self.expires])


class Application(StrictModel):
    """Who asks to take part, signed with the key that it will have."""

    name: Name
    key: Key
    addresses: Annotated[tuple[AddressText, ...], pydantic.Field(max_length=8)] = ()
    signature: Annotated[str, worded_pattern(r"^[0-9a-f]{128}$", "128 hex digits, as kmel-peer signs")]

    @classmethod
    def made(cls, identity: Identity, invitation: Invitation, name: str, addresses: tuple[str, ...]) -> Application:
        """The application of the site that holds `identity`.

        Raises:
            ConfigError: name or addresses are not possible.
        """
        key = identity.key.hex()
        applied = _applied(invitation.site_key, invitation.id, name, key, addresses)
        signed = identity.sign(_APPLICATION, applied).hex()
        return build(cls, {"name": name, "key": key, "addresses": addresses, "signature": signed}, "application")

    @property
    def site_key(self) -> SiteKey:
        """Key of the site that applies, 32 bytes."""
        return SiteKey(bytes.fromhex(self.key))

    def answers(self, inviting: SiteKey, answered: bytes) -> bool:
        """Whether whoever holds the key wrote it, for the invitation of this id, from the site with key `inviting`."""
        applied = _applied(inviting, answered, self.name, self.key, self.addresses)
        return verify(self.site_key, _APPLICATION, applied, bytes.fromhex(self.signature))


def fingerprint(inviting: SiteKey, joining: SiteKey, invitation: bytes, signature: str) -> str:
    """The digits that two people compare: five groups of four.

    Args:
        inviting: key of the site that invites.
        joining: key of the newcomer.
        invitation: id of the invitation that it answers.
        signature: of its application (hex).
    """
    parts = (inviting, joining, invitation, bytes.fromhex(signature))
    number = int.from_bytes(digest(b"kmel fingerprint 1", *parts), "big")
    digits = f"{number % 10 ** (FINGERPRINT_GROUPS * GROUP_DIGITS):0{FINGERPRINT_GROUPS * GROUP_DIGITS}d}"
    return " ".join(digits[at : at + GROUP_DIGITS] for at in range(0, len(digits), GROUP_DIGITS))


def _applied(inviting: SiteKey, invitation: bytes, name: str, key: str, addresses: tuple[str, ...]) -> bytes:
    # The key, because a holder of the text can hand its secret on in a text of its own.
    return canonical([inviting, invitation, name, key, list(addresses)])
