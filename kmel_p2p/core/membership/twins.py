"""Two processes with one key, as after a copied machine: proved by what both sign, told to everybody, decided by one.

Each start draws a nonce. A process that hears a descriptor of its own key with another nonce outbids it, as after a
lost disk, and says in its own whose it has met. A process that is gone never does that. So two descriptors that say so
of each other prove that both run, and nothing else does. Whichever of the two hears it first sends both to all.
"""

from __future__ import annotations

from dataclasses import replace

from kmel_p2p.agreement.errors import LocalError, ProtocolError
from kmel_p2p.agreement.identity import SiteKey, short
from kmel_p2p.core.membership.context import Context
from kmel_p2p.core.membership.descriptor import Descriptor, is_authentic, prove_twins
from kmel_p2p.core.membership.events import TwinDecided, TwinFound
from kmel_p2p.core.membership.messages import TwinEvidence


class Twins:
    """See the module docstring."""

    __slots__ = ("_context", "_known", "_met", "chosen")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._known: dict[SiteKey, frozenset[bytes]] = {}
        """Site -> nonces of its two processes, while nobody has decided."""
        self._met: Descriptor | None = None
        """Of the process that runs with our key beside this one, as last heard."""
        self.chosen = False
        """Whether our operator has chosen the other one."""

    def hear_own(self, fact: Descriptor) -> bool:
        """Take in a descriptor of our own key that is not ours, signed; whether it has to be outbid."""
        own = self._context.own
        if not own.nonce or fact.nonce == own.nonce or fact.outranks != own.nonce:
            return True
        if fact.decided:
            self.chosen = True
            self._context.emit(TwinFound(fact.key, chosen=True))
            return False
        if self._is_decided(fact.nonce):
            return True
        self._met = fact
        self._note(fact.key, fact.nonce, own.nonce)
        # Both have said that they met: outbidding each other any further would never end.
        return own.outranks != fact.nonce

    def spread(self, fact: Descriptor) -> None:
        """Send the proof to all in sight."""
        own = self._context.descriptor
        if prove_twins(own, fact):
            for key in self._context.table.alive:
                self._context.send(key, TwinEvidence((own, fact)))

    def compare(self, held: Descriptor, new: Descriptor) -> None:
        """A newer authentic descriptor of another site replaces the one held."""
        if prove_twins(held, new):
            self._note(new.key, held.nonce, new.nonce)
        if new.decided and new.nonce in self._known.get(new.key, ()):
            del self._known[new.key]
            self._context.emit(TwinDecided(new.key))

    def shown(self, sender: SiteKey, message: TwinEvidence) -> None:
        """A site shows a proof.

        Raises:
            ProtocolError: it proves nothing.
        """
        context = self._context
        pair = [fact for fact in message.facts if isinstance(fact, Descriptor)]
        if len(pair) != 2 or not prove_twins(*pair):
            raise ProtocolError(f"{short(sender)} shows a proof of twins that proves nothing")
        one, other = pair
        if self._known.get(one.key) == frozenset((one.nonce, other.nonce)):
            return
        if context.table.get(one.key) is None and one.key != context.key:
            context.counters.facts_about_strangers += 1
            return
        if not all(is_authentic(fact, context.charter_id, context.verify) for fact in pair):
            context.counters.forged_descriptors += 1
            raise ProtocolError(f"{short(sender)} shows a proof of twins that {short(one.key)} did not sign")
        if one.key != context.key:
            member = context.table.get(one.key)
            held = member.descriptor if member is not None else None
            late = held is not None and held.decided and {held.nonce, held.outranks} == {one.nonce, other.nonce}
            if not late:
                self._note(one.key, one.nonce, other.nonce)
            return
        for mine, twin in ((one, other), (other, one)):
            if mine.nonce == context.own.nonce and not self._is_decided(twin.nonce):
                self._met = twin
                self._note(one.key, one.nonce, other.nonce)

    def go_on(self) -> None:
        """The operator chooses this process.

        Raises:
            LocalError: there is no other one, or that one was chosen already.
        """
        if self.chosen:
            raise LocalError("the other process with this site's key was chosen already: stop this one")
        if self._met is None:
            raise LocalError("no other process is known to run with this site's key")
        context = self._context
        context.own = replace(context.own, outranks=self._met.nonce, decided=True)
        context.raise_generation(max(context.descriptor.generation, self._met.generation) + 1)
        self._met = None
        self._known.pop(context.key, None)
        context.emit(TwinDecided(context.key))

    def _is_decided(self, nonce: bytes) -> bool:
        """Whether our operator has chosen this process against that one."""
        return self._context.own.decided and self._context.own.outranks == nonce

    def _note(self, key: SiteKey, one: bytes, other: bytes) -> None:
        pair = frozenset((one, other))
        if self._known.get(key) != pair:
            self._known[key] = pair
            self._context.emit(TwinFound(key))
