"""A whole input for every reader, small, so that a case costs microseconds."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import openpyxl
import pandas as pd
from safetensors.numpy import save

from kmel_p2p.agreement.charter import Charter, CharterDocument, SiteRule
from kmel_p2p.agreement.columns import Column, Source
from kmel_p2p.agreement.endpoint import AssayEndpoint
from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.agreement.invitation import Application, Invitation
from kmel_p2p.agreement.training import ModelRule
from kmel_p2p.core.ledger.log.accumulator import Accumulator
from kmel_p2p.core.ledger.rules.rules import AmendedRules, Rules
from kmel_p2p.core.ledger.sync.messages import SCHEMAS
from kmel_p2p.core.membership.descriptor import OwnDescription, make_descriptor
from kmel_p2p.core.membership.messages import (
    FACT,
    Accusation,
    Ack,
    Gossip,
    MemberVersion,
    Nack,
    Ping,
    PingRequest,
    SyncDigest,
    SyncEntry,
    SyncFacts,
    SyncSummary,
)
from kmel_p2p.core.membership.messages import SCHEMAS as MEMBERSHIP
from kmel_p2p.core.pushsum import share
from kmel_p2p.core.pushsum.holding import Holding
from kmel_p2p.core.pushsum.messages import SCHEMAS as PUSHSUM
from kmel_p2p.core.pushsum.messages import (
    Hop,
    Inquiry,
    MassTransfer,
    ProgressReport,
    Receipt,
    ShareRequest,
    Statements,
    TransferVerdict,
)
from kmel_p2p.core.pushsum.state import Debited, PushSumState
from kmel_p2p.core.pushsum.statements import Statement
from kmel_p2p.core.types import Lane
from kmel_p2p.core.wire import Wire
from kmel_p2p.delta.layout import initial_trunk
from kmel_p2p.learn.models.architecture import Architecture
from kmel_p2p.learn.models.layout import trunk_layout
from kmel_p2p.learn.predict.model_directory import read_card, read_parameters
from kmel_p2p.learn.predict.stack_file import STACK_FILE
from kmel_p2p.learn.predict.trunk_file import TrunkCard, write_trunk
from kmel_p2p.learn.train.checkpoint import Parameters
from kmel_p2p.net import frames as net_frames
from kmel_p2p.net.desk_client import encode_question
from kmel_p2p.site.config import DataSection, SiteConfig, SiteSection
from kmel_p2p.site.state.own_sum import OwnSum
from kmel_p2p.site.state.store import Store
from tests.support import golden_samples
from tests.support.golden_samples import ALICE, BOB, CHARTER_ID, CODEC, LAYOUT, ORDER, PAYLOAD
from tests.support.stacked_site import POLICY, SHAPE, make_site
from tests.support.stored_entries import A, encoded

__all__ = ["CODEC", "LAYOUT", "PAYLOAD"]

WIRE = Wire(CHARTER_ID, (*MEMBERSHIP, *SCHEMAS))
PUSHSUM_WIRE = Wire(CHARTER_ID, PUSHSUM)
KEY = SiteKey(bytes(range(32)))
ENDPOINTS = (
    AssayEndpoint(name="logd"),
    AssayEndpoint(name="ic50", unit="umol/L", transform="log10"),
    AssayEndpoint(name="ames", kind="classification"),
)
SMILES = (
    *("CCO", "c1ccccc1C(=O)O", "[Na+].[Cl-]", "C[C@H](N)C(=O)O", "F/C=C/F", "CC(C)(C)c1ccc(O)cc1", "[2H]C([2H])O"),
    *("N[C@@H](Cc1c[nH]c2ccccc12)C(=O)O", "CC(=O)Oc1ccccc1C(=O)O.O", "[O-][n+]1ccccc1", "C1CC1.C1CC1", "OC1=NC=CC=C1"),
)


@functools.cache
def golden() -> dict[str, bytes]:
    """The formats that leave a site, as golden files have them."""
    return golden_samples.today()


@functools.cache
def rules() -> AmendedRules:
    """Rules under which the golden entries were made."""
    return AmendedRules.first(Rules(CHARTER_ID, ORDER, CODEC.codec_id, 2**16, 4.0, 2**60, heads=3))


@functools.cache
def _facts() -> tuple[Any, ...]:
    own = OwnDescription(generation=3, addresses=("tcp://10.0.0.1:7700",), software="kmel-p2p 0.1", size_class=9)
    return make_descriptor(ALICE, CHARTER_ID, own, 2), Accusation(BOB.key[:8], 3, 1, False, (ALICE.key[:8],))


def facts() -> list[bytes]:
    """Facts of membership as a store keeps them."""
    return [msgpack.packb(FACT.pack(fact), use_bin_type=True) for fact in _facts()]


def membership_messages() -> list[bytes]:
    """One of each kind."""
    known = _facts()
    messages = (
        Ping(7, 3, 2, known),
        Ack(7, 3, 2),
        PingRequest(8, BOB.key[:8], 200_000),
        Nack(8),
        Gossip(known),
        SyncDigest((bytes(8), b"12345678")),
        SyncSummary(2, (1,), (SyncEntry(BOB.key[:8], MemberVersion(3, 1, 0)),)),
        SyncFacts(known, (ALICE.key[:8],)),
    )
    return [WIRE.encode(message) for message in messages]


def shares() -> list[bytes]:
    """A share of a trunk at every number of bits."""
    holding = Holding(np.linspace(-1, 1, LAYOUT.size, dtype=np.float32), np.arange(LAYOUT.size) << 20, 2**20)
    return [share.encode(holding, 2**18, bits, 1)[0] for bits in (4, 8, 64)]


def statements() -> list[bytes]:
    """One site's statement."""
    return [Statement(ALICE.key, 3, 9, b"lifelife", 2**20, 12, 1, 1, False).signed(ALICE, CHARTER_ID).encoded]


def pushsum_messages() -> list[bytes]:
    """One of each kind."""
    life, payload = b"lifelife", shares()[0]
    messages = (
        Statements(tuple(statements()), 2**63, Hop.OFFER),
        MassTransfer(4, life, life, 2**18, 7, True, payload),
        Inquiry(4, life, life),
        Receipt(4, life, TransferVerdict.APPLIED),
        ShareRequest(),
        ProgressReport(12, 9000),
    )
    return [PUSHSUM_WIRE.encode(message) for message in messages]


def frames() -> list[bytes]:
    """One of each kind of frame; a chunk without its data."""
    greeting = net_frames.Greeting(Lane.BULK, b"bootboot", 3, b"sessions", 2**23)
    id_, digest = b"i" * 16, bytes(32)
    made: tuple[net_frames.Frame, ...] = (
        net_frames.Hello(greeting),
        net_frames.Welcome(greeting),
        net_frames.Payload(b"message"),
        net_frames.Keepalive(1),
        net_frames.KeepaliveAnswer(1),
        net_frames.Chunk(b"sessions", id_, 2**20, 0),
        net_frames.Grant(b"sessions", 2**24),
        net_frames.Done(id_),
        net_frames.HeldQuery(id_, 2**20, False),
        net_frames.HeldAnswer(id_, 2**18, digest),
        net_frames.Refuse(id_, net_frames.Reason.BUSY),
        net_frames.Open(),
    )
    return [net_frames.encode(frame) for frame in made]


def payloads() -> list[bytes]:
    """Deltas of the golden layout, with as many values as the codec keeps, and with none."""
    values = np.random.default_rng(0).normal(0, 1e-3, LAYOUT.size).astype(np.float32)
    return [CODEC.encode((values * scale).astype(np.float32)) for scale in (1, 1000, 0)]


@functools.cache
def _charter() -> Charter:
    return Charter(
        federation="demo",
        sites=(
            SiteRule(name="north", key=ALICE.key.hex(), addresses=("tcp://10.0.0.1:7700",)),
            SiteRule(name="south", key=BOB.key.hex()),
        ),
        assay_endpoints=ENDPOINTS,
        model=ModelRule(hidden=(8,)),
    )


def charter() -> bytes:
    """A signed charter."""
    return CharterDocument(charter=_charter()).signed_by(ALICE).render().encode()


def amendment_file() -> bytes:
    """A signed amendment as people exchange it."""
    return golden_samples.AMENDMENT.render().encode()


def invitation() -> bytes:
    """An invitation as it is mailed."""
    return _invitation().render(ALICE).encode()


def _invitation() -> Invitation:
    address = "tcp://alice.example:7700"
    return Invitation(
        federation="demo", site="alice", key=ALICE.key.hex(), addresses=(address,), secret="5a" * 16, expires=2**31
    )


def desk_questions() -> list[bytes]:
    """What newcomers and members ask at a desk."""
    application = Application.made(ALICE, _invitation(), "bob", ("tcp://bob.example:7700",))
    return [
        encode_question("join", {"application": application.model_dump(mode="json")}),
        encode_question("propose", {"documents": [golden()["amendment"]]}),
        encode_question("look"),
    ]


def site_config() -> bytes:
    """All settings of a site."""
    data = DataSection(path=Path("d.csv"), columns={"logd": Column(column="D", unit="", factor=2.0)})
    return SiteConfig(site=SiteSection(name="north"), data=data).render().encode()


def control_requests() -> list[bytes]:
    """What `kmel-peer` sends to a daemon."""
    requests = (
        {"do": "status"},
        {"do": "approve", "with": {"number": 3}},
        {"do": "amend", "with": {"body": b"x" * 40}},
    )
    return [msgpack.packb({"v": 1, "id": 1, **request}, use_bin_type=True) for request in requests]


def egress_lines() -> list[bytes]:
    """Lines of an egress log."""
    fields = {"n": 1, "time": 1.5, "to": "south", "kind": "Bodies", "what": "1 entry; w", "bytes": 100, "messages": 1}
    return [json.dumps({**fields, "digest": "ab" * 32, "previous": "cd" * 32}).encode()]


@functools.cache
def pushsum_base() -> Any:
    """An initial trunk, float32[d]."""
    return np.linspace(-1, 1, LAYOUT.size, dtype=np.float32)


def pushsum_state() -> bytes:
    """A site's state in averaging mode pushsum, with a transfer under way."""
    state = PushSumState.fresh(pushsum_base(), b"lifelife")
    state.numbers[BOB.key] = 2
    state.owed[BOB.key] = Debited(BOB.key, 2, b"otherone", 2**18, 3, shares()[0])
    return state.encode()


def own_sum(folder: Path) -> bytes:
    """The sum of a site's compacted entries."""
    path = folder / "whole-own.kmls"
    OwnSum(KEY, 3, bytes(32), Accumulator(np.arange(4))).write(path)
    return path.read_bytes()


def tensors() -> bytes:
    """A file of tensors and facts."""
    return save({"a": np.ones((2, 3), np.float32)}, metadata={"facts": json.dumps({"number": 3, "loss": [0.5, None]})})


def store(folder: Path) -> bytes:
    """A site's store with some entries."""
    path = folder / "whole.sqlite"
    path.unlink(missing_ok=True)
    made = Store(path)
    for number in range(1, 6):
        made.append_entry(A, number, encoded(A, number))
    made.add_amendment(1, golden()["amendment"])
    made.put_peer(ALICE.key, facts()[0])
    made.add_history("sample", 1.0, {"alive": 2})
    made.averaging.put_state(CHARTER_ID, 1, pushsum_state(), None)
    made.close()
    return path.read_bytes()


@functools.cache
def model_directory(folder: Path) -> Path:
    """A site's models with its stack and its neighbours."""
    return make_site().write(folder)


def model_shape() -> tuple[int, int]:
    """Bits of its fingerprints, and number of its assay endpoints."""
    return POLICY.bits, len(SHAPE.endpoints)


def stack_reader(folder: Path) -> Callable[[bytes], Any]:
    """Reads the file of a stack as if its digest were the card's: what is in it is checked all the same."""
    from dataclasses import replace

    from kmel_p2p.learn.predict import stack_file

    card = read_card(folder)
    parameters = {name: Parameters(*pair) for name, pair in read_parameters(folder, card).items()}
    path = folder / STACK_FILE

    def read(data: bytes) -> Any:
        whole = path.read_bytes()
        path.write_bytes(data)
        try:
            return stack_file.read_stack(folder, replace(card, stack_digest=stack_file._digest(path)), parameters)
        finally:
            path.write_bytes(whole)

    return read


@functools.cache
def trunk_directory(folder: Path) -> Path:
    """The shared trunk alone."""
    policy = FeatureRule(bits=64)
    shape = Architecture(inputs=policy.width, hidden=(4,), endpoints=SHAPE.endpoints)
    layout = trunk_layout(shape)
    authors = [{"name": "north", "key": "01" * 32, "entries": 5}]
    card = TrunkCard("demo", "ab" * 32, 0, "", {"01" * 32: 5}, authors, "ef" * 32, shape, policy, "")
    write_trunk(folder, card, initial_trunk(layout, 1))
    return folder


def tables(folder: Path) -> dict[str, tuple[Source, bytes, float]]:
    """By format: how it is read, a whole file, and its share of the cases."""
    wide = b"smiles,D,IC,A\n" + b"".join(
        f"{smiles},{number}.5,>{number},{number % 2}\n".encode() for number, smiles in enumerate(SMILES)
    )
    columns = {"logd": Column(column="D"), "ic50": Column(column="IC", unit="nM"), "ames": Column(column="A")}
    frame = pd.read_csv(io.BytesIO(wide))
    parquet, book = io.BytesIO(), openpyxl.Workbook()
    frame.to_parquet(parquet)
    sheet = book.active
    assert sheet is not None
    for row in (list(frame.columns), *frame.astype(object).to_numpy().tolist()):
        sheet.append(row)
    workbook = io.BytesIO()
    book.save(workbook)
    block = (
        "\n  x\n\n  2  1  0  0  0  0  0  0  0  0999 V2000\n    0.0 0.0 0.0 C   0  0\n    1.0 0.0 0.0 O   0  0\n"
        "  1  2  1  0\nM  END\n> <D>\n"
    )
    sdf = "".join(
        f"{name}{block}{value}\n\n> <IC>\n<3\n\n> <A>\n1\n\n$$$$\n" for name, value in (("a", 1.5), ("b", ""))
    )
    long = (
        "Chemical ID,Chemical Name,SMILES_Structure_Parent,SMILES_Salt,Test,Test_Type,Test_Subject,Measurement_Type,"
        "Measurement_Condition,Measurment_Relation,Measurement_Value,Measurement_Unit\n"
        'A,,CCO,,Distribution,LogD,,D,,"""=""",1,\nB,,CCN,,Toxicity,IC50,,D,,>,60,nM\nC,,CCC,,Toxicity,Ames,,,,,,Positive\n'
    )
    matched = {"logd": Column(match={"Test_Type": "LogD"}), "ic50": Column(match={"Test_Type": "IC50"}),
               "ames": Column(match={"Test_Type": "Ames"})}  # fmt: skip
    structures = folder / "t2.csv"
    structures.write_text("input_compound_id,smiles\n1,CCO\n2,CCN\n")
    tuner = b"input_compound_id,input_assay_id,standard_qualifier,standard_value\n1,LD,=,1.5\n2,LD,<,2\n1,A,=,7\n"
    assays = {
        "logd": Column(column="LD"),
        "ic50": Column(column="I", unit="nM"),
        "ames": Column(column="A", threshold=5),
    }
    made = {
        "CSV": (Source(path=folder / "d.csv", columns=columns), wide, 1.0),
        "Parquet": (Source(path=folder / "d.parquet", columns=columns), parquet.getvalue(), 0.2),
        "workbook": (Source(path=folder / "d.xlsx", columns=columns), workbook.getvalue(), 0.05),
        "SDF": (Source(path=folder / "d.sdf", format="sdf", columns=columns), sdf.encode(), 1.0),
        "K-MELLODDY": (Source(path=folder / "long.csv", format="kmelloddy", columns=matched), long.encode(), 1.0),
        "TUNER": (
            Source(path=folder / "t1.csv", format="tuner", structures=structures, columns=assays), tuner, 1.0,
        ),
    }  # fmt: skip
    return made
