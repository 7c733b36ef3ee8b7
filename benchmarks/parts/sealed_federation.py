"""Sealed rounds of whole peers in virtual time: lost messages and kills, exactness, and a search for what must not be
seen.

The plain levels and the drift of every site are known here. Every message, and everything on the other sites' disks, is
searched for pieces of them.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.sealed.masking import pack
from kmel_p2p.core.sealed.messages import Sealed
from kmel_p2p.core.sealed.present import Present
from kmel_p2p.core.sealed.stages import Stage
from kmel_p2p.core.sealed.sums import decode_sum
from kmel_p2p.core.types import SECOND
from tests.testbed.sealed_mesh import Faults, Mesh, towards

PIECE = 24
"""Bytes of a plain vector that are looked for."""
PIECES = 8
"""Of each form of each vector."""

LONG, SOONER = (Stage.IDLE, Stage.TRAINING), 10
"""Stages in which a site spends most of its time; in the others it is killed so many times as readily."""


@dataclass
class Watched:
    """What was seen of a run."""

    sums: int = 0
    digests: int = 0
    exact: bool = True
    kills: dict[str, int] = field(default_factory=dict)
    plain_bytes_found: int = 0
    bytes_per_round: float = 0.0
    seconds_per_round: float = 0.0


class Truth:
    """What every site sealed, noted where it is masked."""

    def __init__(self) -> None:
        self.vectors: dict[tuple[SiteKey, int], NDArray[np.int64]] = {}
        self.drifts: dict[SiteKey, list[bytes]] = {}

    @contextlib.contextmanager
    def noting(self) -> Iterator[None]:
        """While it is open, everything that is sealed is noted."""
        original = Present.seal

        def noted(present: Present, q: NDArray[np.int64], state_file: str) -> Sealed:
            made = original(present, q, state_file)
            self.vectors[made.author, made.round] = q.copy()
            return made

        with mock.patch.object(Present, "seal", noted):
            yield

    def pieces(self, levels: int) -> Iterator[tuple[SiteKey, bytes]]:
        """Bytes that show a plain vector, in the forms that it might be written in."""
        for (site, _), vector in self.vectors.items():
            raised = (vector + levels).astype(np.uint16)
            forms = [raised.astype(np.uint8).tobytes(), vector.astype(np.int8).tobytes(), raised.tobytes()]
            forms += [vector.astype("<i8").tobytes(), *(pack(raised, bits) for bits in (4, 6, 7, 8))]
            for form in forms:
                yield from ((site, piece) for piece in _pieces(form))
        for site, drifts in self.drifts.items():
            for drift in drifts:
                yield from ((site, piece) for piece in _pieces(drift))


def _pieces(form: bytes) -> Iterator[bytes]:
    """Some of a vector's bytes; stretches of few values stand in other things, too, and are left out."""
    for at in np.linspace(0, len(form) - PIECE, PIECES).astype(int):
        piece = form[at : at + PIECE]
        if len(set(piece)) > PIECE // 4:
            yield piece


def watch(sites: int, rounds: int, size: int, *, loss: float, often: float = 0.0, seed: int = 0) -> Watched:
    """Run a federation to its end.

    Args:
        sites: how many.
        rounds: sums of the run.
        size: values of the trunk.
        loss: share of messages that are lost.
        often: probability, at every input of a site, that it is killed then, to start again a second later.
        seed: of everything.
    """
    rng, seen = random.Random(seed), Watched()
    truth, drift = Truth(), towards(size, seed)

    def trained(n: int, number: int, trunk: NDArray[np.float32]) -> NDArray[np.float32]:
        made = drift(n, number, trunk)
        truth.drifts.setdefault(mesh.keys[n], []).append(made.astype("<f4").tobytes())
        return made

    with truth.noting():
        mesh = Mesh(
            sites, trained, seed=seed, faults=Faults(loss=loss), size=size, entry_limit=rounds,
            min_group=max(4, 2 * sites // 3 + 1), min_sum=max(3, 2 * sites // 3), start_sites=sites,
        )  # fmt: skip

        def maybe_kill(n: int) -> None:
            site = mesh.sites[n]
            running = sum(other is not None for other in mesh.sites)
            if site is None or site.complete or running < sites:
                return
            stage = site.present.stage
            if rng.random() > often * (1 if stage in LONG else SOONER):
                return
            seen.kills[stage.name] = seen.kills.get(stage.name, 0) + 1
            mesh.at(mesh.now, lambda: mesh.restart(n, SECOND) if mesh.sites[n] is site else None)

        mesh.watch = maybe_kill
        mesh.run(lambda: all(mesh.sites) and mesh.all_complete(), 40 * rounds * SECOND + 600 * SECOND)
    seen.sums, seen.digests = mesh.site(0).log.number, len(mesh.digests())
    seen.exact = _exact(mesh, truth.vectors)
    wire = mesh.wire.encode
    sent = [wire(message) for _, _, message in mesh.sent]
    seen.bytes_per_round = sum(map(len, sent)) / sites / max(1, seen.sums)
    seen.seconds_per_round = mesh.now / SECOND / max(1, seen.sums)
    seen.plain_bytes_found = _found(mesh, sent, list(truth.pieces(mesh.rules.levels)))
    return seen


def _exact(mesh: Mesh, vectors: Mapping[tuple[SiteKey, int], NDArray[np.int64]]) -> bool:
    """Whether every sum is the plain sum of what its sites sealed, bit for bit."""
    log = mesh.rules.empty_log(mesh.base)
    for encoded in mesh.disks[0].sums:
        entry = decode_sum(encoded)
        inside = [key for place, key in enumerate(mesh.keys) if entry.sites >> place & 1]
        plain = sum(vectors[key, entry.round] for key in inside)
        made = log.entry(entry.round, entry.sites, entry.choice, np.asarray(plain))
        if made.packed != entry.packed:
            return False
        log.add(entry)
    return True


def _found(mesh: Mesh, sent: list[bytes], pieces: list[tuple[SiteKey, bytes]]) -> int:
    """Bytes of plain vectors in messages and on the disks of sites that they are not of."""
    wire = b"".join(sent)
    disks = {
        mesh.keys[n]: b"".join(part for part in (disk.own, disk.residual, disk.candidate, *disk.sums) if part)
        for n, disk in enumerate(mesh.disks)
    }
    found = 0
    for author, piece in pieces:
        found += PIECE * (piece in wire)
        found += PIECE * sum(piece in held for key, held in disks.items() if key != author)
    return found
