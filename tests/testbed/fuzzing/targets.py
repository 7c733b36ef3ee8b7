"""The decoders and readers of this program, each with whole samples and the errors it may raise.

What comes from another site may only raise `RemoteError`; what lies on this machine, any error of ours that says what
to do.
"""

from __future__ import annotations

import functools
import io
import random
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kmel_p2p.agreement.errors import KmelError, LocalError, RemoteError
from tests.testbed.fuzzing import mutate, samples

Read = Callable[[bytes], Any]


@dataclass(frozen=True)
class Target:
    """One reader.

    Attributes:
        name: for people.
        read: takes bytes; what it gives does not matter.
        samples: whole inputs.
        raises: the errors it may raise.
        changes: ways to damage a sample that know its format, besides the blind ones.
        share: its share of the cases, where most have 1; readers that are slow have less.
    """

    name: str
    read: Read
    samples: Sequence[bytes]
    raises: type[Exception] | tuple[type[Exception], ...] = RemoteError
    changes: tuple[mutate.Change, ...] = field(default=(mutate.msgpack_changed,))
    share: float = 1.0

    def case(self, rng: random.Random) -> bytes:
        """One damaged input."""
        sample = rng.choice(self.samples)
        change = rng.choice(self.changes) if self.changes and rng.random() < 0.6 else rng.choice(mutate.BLIND)
        data = change(rng, sample, self.samples)
        return change(rng, data, self.samples) if rng.random() < 0.1 else data

    def untyped(self, data: bytes) -> Exception | None:
        """The error that the reader should not raise for `data`, if it does."""
        try:
            self.read(data)
        except self.raises:
            return None
        except Exception as error:
            return error
        return None


def targets(folder: Path | None = None) -> tuple[Target, ...]:
    """All of them. `folder`: for readers of files; by default one in the directory of temporary files."""
    place = folder or Path(_temporary().name)
    return (*remote(), *local(place))


@functools.cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="kmel-fuzz-")


def remote() -> Iterator[Target]:
    """What other sites and strangers can reach."""
    from kmel_p2p.agreement.amendment import AmendmentDocument
    from kmel_p2p.agreement.canonical import unpack_bounded
    from kmel_p2p.core.ledger.log import entry
    from kmel_p2p.core.ledger.rules.proof import prove
    from kmel_p2p.core.ledger.snapshot import snapshot
    from kmel_p2p.core.membership.messages import FACT
    from kmel_p2p.core.pushsum import share, statements
    from kmel_p2p.net import desk, frames

    made = samples.golden()
    messages = [data for name, data in made.items() if name.startswith("message_")]
    yield Target("wire: ledger and membership", samples.WIRE.decode, [*messages, *samples.membership_messages()])
    yield Target("wire: pushsum", samples.PUSHSUM_WIRE.decode, samples.pushsum_messages())
    yield Target("frames", frames.decode, samples.frames(), changes=())
    yield Target("entry", entry.decode, [made["entry"], made["first_entry"]])
    yield Target("header", entry.decode_stub, [made["header_stub"], made["fork_proof_first"]])
    yield Target(
        "evidence",
        lambda data: prove((data, made["fork_proof_second"]), samples.rules(), samples.CODEC, 10_000),
        [made["fork_proof_first"], made["fork_proof_second"], made["entry"]],
    )
    yield Target("payload", samples.CODEC.decode, [samples.PAYLOAD, *samples.payloads()], changes=(), share=2.0)
    yield Target("share", lambda data: share.decode(data, samples.LAYOUT.size), samples.shares(), changes=())
    yield Target("statement", statements.decode, samples.statements())
    yield Target("snapshot", snapshot.decode, [made["snapshot"]])
    yield Target("amendment", AmendmentDocument.decode, [made["amendment"]])
    yield Target("question at the desk", desk.read_question, samples.desk_questions())
    yield Target("membership fact", lambda data: FACT.unpack(unpack_bounded(data, 10_000)), samples.facts())


def local(folder: Path) -> Iterator[Target]:
    """What lies on this machine: files that people hand over or disks damage, and the control socket."""
    from kmel_p2p.agreement.amendment import AmendmentDocument
    from kmel_p2p.agreement.charter import CharterDocument
    from kmel_p2p.agreement.invitation import Invitation
    from kmel_p2p.core.pushsum.journal import restore
    from kmel_p2p.learn.tensor_file import read_state, read_vector
    from kmel_p2p.site.config import parse_config
    from kmel_p2p.site.control import server
    from kmel_p2p.site.keys import load_key
    from kmel_p2p.site.observe import egress_record
    from kmel_p2p.site.state.own_sum import OwnSum
    from kmel_p2p.site.state.stored_snapshot import SnapshotFiles

    text, tensors = (mutate.text_changed,), (mutate.safetensors_changed,)
    ours = (KmelError,)
    yield Target("charter", _text(lambda t: CharterDocument.parse(t, "c")), [samples.charter()], ours, text, 0.5)
    yield Target(
        "amendment file", _text(lambda t: AmendmentDocument.parse(t, "a")), [samples.amendment_file()], ours, text, 0.5
    )
    yield Target("invitation", _text(Invitation.parse), [samples.invitation()], ours, text, 0.5)
    yield Target("settings", _text(lambda t: parse_config(t, folder / "s")), [samples.site_config()], ours, text, 0.5)
    yield Target(
        "control request", lambda data: server._request(server.decode(data)), samples.control_requests(), LocalError
    )
    yield Target("egress record", egress_record.parse, samples.egress_lines(), (), text)
    yield Target("pushsum state", _pushsum_state(restore), [samples.pushsum_state()], ours, (_behind_length,))
    in_folder = functools.partial(_file, folder)
    yield Target("own sum", in_folder("own.kmls", _own_sum(OwnSum)), [samples.own_sum(folder)], ours, ())
    yield Target(
        "snapshot file",
        in_folder("snapshot-1.kmls", lambda path: SnapshotFiles(folder).read(path.name)),
        [samples.golden()["snapshot"]],
        ours,
        (),
    )
    yield Target("key", in_folder("site.key", load_key), [bytes(32).hex().encode() + b"\n"], ours, text)
    yield Target(
        "tensor file", in_folder("t.safetensors", lambda p: read_state(p, {"a": (2, 3)})), [samples.tensors()], ours,
        tensors,
    )  # fmt: skip
    yield Target("vector file", in_folder("v.f32", lambda p: read_vector(p, 5)), [bytes(20)], ours, ())
    yield Target("store", in_folder("store.sqlite", _whole_store), [samples.store(folder)], ours, (), 0.1)
    yield from models(folder)
    yield from tables(folder)


def models(folder: Path) -> Iterator[Target]:
    """Files of a model directory."""
    from kmel_p2p.learn.predict.model_directory import CARD, TENSORS, read_card
    from kmel_p2p.learn.predict.neighbours import FILE, read_neighbours
    from kmel_p2p.learn.predict.predict import load_model
    from kmel_p2p.learn.predict.stack_file import STACK_FILE
    from kmel_p2p.learn.predict.trunk_file import read_trunk

    site = samples.model_directory(folder / "model")
    card, ours = (site / CARD).read_bytes(), (KmelError,)
    text, tensors = (mutate.text_changed,), (mutate.safetensors_changed,)
    place = folder / "model"
    width, endpoints = samples.model_shape()
    load = functools.partial(_restoring, place)
    yield Target("card", load(CARD, lambda path: read_card(path.parent)), [card], ours, text)
    for name in (TENSORS, STACK_FILE, FILE):
        whole = (site / name).read_bytes()
        yield Target(f"model: {name}", load(name, lambda path: load_model(path.parent)), [whole], ours, tensors, 0.003)
    yield Target(
        "neighbours", _restoring(place, FILE, lambda path: read_neighbours(path.parent, width, endpoints)),
        [(site / FILE).read_bytes()], ours, tensors,
    )  # fmt: skip
    stack = (site / STACK_FILE).read_bytes()
    yield Target("stack", samples.stack_reader(site), [stack], ours, tensors, 0.2)
    trunk = samples.trunk_directory(folder / "trunk")
    yield Target(
        "trunk card", _restoring(trunk, CARD, lambda path: read_trunk(path.parent)), [(trunk / CARD).read_bytes()],
        ours, text, 0.5,
    )  # fmt: skip


def tables(folder: Path) -> Iterator[Target]:
    """Files of measurements and structures."""
    from rdkit import rdBase

    from kmel_p2p.chem.structures.standardise import parse

    rdBase.DisableLog("rdApp.*")
    ours, text = (KmelError,), (mutate.text_changed,)
    for name, (source, sample, share) in samples.tables(folder).items():
        read = functools.partial(_records, source)
        yield Target(f"table: {name}", _file(folder, source.path.name, lambda path, read=read: read()), [sample], ours,
                     text if share == 1.0 else (), share)  # fmt: skip
    yield Target("SMILES", _text(parse), [s.encode() for s in samples.SMILES], (*ours, ValueError), text)


def _text(read: Callable[[str], Any]) -> Read:
    return lambda data: read(data.decode("utf-8", "replace"))


def _file(folder: Path, name: str, read: Callable[[Path], Any]) -> Read:
    """A reader of the file `name` in `folder`."""
    path = folder / name

    def run(data: bytes) -> Any:
        path.write_bytes(data)
        path.chmod(0o600)
        return read(path)

    return run


def _restoring(folder: Path, name: str, read: Callable[[Path], Any]) -> Read:
    """A reader of a directory of which one file is damaged, and whole again afterwards."""
    path = folder / name
    whole = path.read_bytes()

    def run(data: bytes) -> Any:
        path.write_bytes(data)
        try:
            return read(path)
        finally:
            path.write_bytes(whole)

    return run


def _records(source: Any) -> list[Any]:
    from kmel_p2p.chem.read import kmelloddy, tuner, wide_table
    from kmel_p2p.chem.read.records import map_columns

    readers = {"wide": wide_table.read_wide, "sdf": wide_table.read_sdf, "kmelloddy": kmelloddy.read_kmelloddy,
               "tuner": tuner.read_tuner}  # fmt: skip
    return list(readers[source.format](source, map_columns(source, samples.ENDPOINTS)))


def _own_sum(cls: Any) -> Callable[[Path], Any]:
    return lambda path: cls.read(path, samples.KEY, 4)


def _pushsum_state(restore: Callable[..., Any]) -> Read:
    return lambda data: restore(samples.pushsum_base(), data, (), "store")


def _behind_length(rng: random.Random, data: bytes, made: Sequence[bytes]) -> bytes:
    """The msgpack behind a length of 8 bytes, changed, with a length that fits it."""
    end = 8 + int.from_bytes(data[:8], "big")
    inner = mutate.msgpack_changed(rng, data[8:end], made)
    return len(inner).to_bytes(8, "big") + inner + data[end:]


def _whole_store(path: Path) -> None:
    """Open a store and read all that a start reads."""
    from kmel_p2p.site.state.store import Store

    for beside in ("-wal", "-shm"):
        path.with_name(path.name + beside).unlink(missing_ok=True)
    store = Store(path)
    try:
        for entry in store.load_entries():
            io.BytesIO(entry.encoded)
        store.vector()
        store.log_ends()
        store.amendments()
        store.peers()
        store.history("sample")
        store.check()
        store.averaging.load()
    finally:
        store.close()


assert sqlite3.threadsafety
