"""What members may ask of a desk: facts, and a look at their own ports."""

from __future__ import annotations

import asyncio

import pytest

from kmel_p2p.agreement.amendment import Constitution
from kmel_p2p.agreement.charter import Charter
from kmel_p2p.agreement.errors import LocalError
from kmel_p2p.agreement.identity import Identity, SiteKey
from kmel_p2p.site.desk import members
from kmel_p2p.site.desk.members import ADDRESSES_MAX, LOOKS_MAX, MembersDesk

IDENTITIES = [Identity(bytes([number]) * 32) for number in range(1, LOOKS_MAX + 4)]
SITES = tuple({"name": f"s{number}", "key": one.key.hex()} for number, one in enumerate(IDENTITIES))
CONSTITUTION = Constitution(
    Charter.model_validate({"federation": "demo", "sites": SITES, "assay_endpoints": ({"name": "logd"},)})
)
OWN, ASKING = IDENTITIES[0], IDENTITIES[1].key


def desk(*addresses: str) -> tuple[MembersDesk, list[SiteKey]]:
    asked: list[SiteKey] = []

    def leaves(to: SiteKey, question: bytes) -> bool:
        asked.append(to)
        return True

    return MembersDesk(OWN, lambda: CONSTITUTION, lambda key: addresses, leaves), asked


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may be slow to say that nobody listens, and to ask a second time."""
    monkeypatch.setattr(members, "LOOK_S", 120.0)
    monkeypatch.setattr(members, "LOOK_AGAIN_S", 600.0)


async def test_facts_are_those_of_the_charter() -> None:
    facts = await desk()[0].answer(ASKING, "facts", {})
    assert (facts["site"], facts["charter"], facts["amendments"]) == ("s0", CONSTITUTION.id.hex(), 0)


async def test_a_site_has_only_its_own_addresses_dialled() -> None:
    made, asked = desk("tcp://127.0.0.1:9")
    answer = await made.answer(ASKING, "look", {})
    assert [row["address"] for row in answer["looked"]] == ["tcp://127.0.0.1:9"]
    assert "nobody listens" in answer["looked"][0]["problem"]
    assert asked == [ASKING]
    with pytest.raises(LocalError, match="has just looked"):
        await made.answer(ASKING, "look", {})


async def test_looks_are_bounded() -> None:
    made, _ = desk(*(f"tcp://127.0.0.1:{port}" for port in range(1, ADDRESSES_MAX + 5)))
    waiting = [asyncio.create_task(made.answer(one.key, "look", {})) for one in IDENTITIES[1:]]
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    looked = [answer for answer in answers if isinstance(answer, dict)]
    assert len(looked) == LOOKS_MAX
    assert all(len(answer["looked"]) == ADDRESSES_MAX for answer in looked)
    assert all("looks at other sites" in str(answer) for answer in answers if isinstance(answer, LocalError))


async def test_what_may_not_be_recorded_is_not_asked() -> None:
    made = MembersDesk(OWN, lambda: CONSTITUTION, lambda key: ("tcp://127.0.0.1:9",), lambda to, question: False)
    assert "cannot be recorded" in (await made.answer(ASKING, "look", {}))["looked"][0]["problem"]


async def test_an_unknown_request_is_refused_in_words() -> None:
    with pytest.raises(LocalError, match="knows no request"):
        await desk()[0].answer(ASKING, "everything", {})
