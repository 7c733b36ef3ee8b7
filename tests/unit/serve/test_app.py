"""The page and the interface for programs, with the models of a small site."""

from __future__ import annotations

import csv
import glob
import io
import json
import os
import re
import stat
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import openpyxl
import pytest
import pytest_asyncio

import kmel_p2p
from kmel_p2p.serve import forms, jobs
from kmel_p2p.serve.app import application
from kmel_p2p.serve.jobs import MAX_CHARACTERS, ModelJobs
from kmel_p2p.serve.worker import ModelWorker
from tests.support.made_up_jobs import MadeUpJobs
from tests.support.stacked_site import SMILES, make_site

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_site().write(tmp_path_factory.mktemp("serve") / "model")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with application(ModelWorker(folder)) as app:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8410", timeout=60) as client:
            yield client


async def test_values_are_those_of_predict(client: httpx.AsyncClient, folder: Path) -> None:
    asked = [SMILES[3], "nonsense", "C" * (MAX_CHARACTERS + 1), ""]
    answer = await client.post("/api/predict", json={"smiles": asked, "level": 0.8})
    assert answer.status_code == 200, answer.text
    rows = answer.json()
    expected = kmel_p2p.load(folder).predictions([SMILES[3]], level=0.8)[0]
    assert rows[0]["predictions"]["solubility"]["value"] == expected.values["solubility"]
    assert rows[0]["predictions"]["solubility"]["lower"] == expected.assays["solubility"].lower
    assert rows[0]["similarity"] == expected.similarity
    assert 0 < rows[0]["predictions"]["herg"]["value"] < 1
    assert [bool(row["reason"]) for row in rows] == [False, True, True, True]
    assert rows[2]["reason"] == jobs.TOO_LONG


async def test_why_comes_with_neighbours_and_contributions(client: httpx.AsyncClient) -> None:
    rows = (await client.post("/api/explain", json={"smiles": ["CCCCO", "nonsense"]})).json()
    assay = rows[0]["assays"]["solubility"]
    assert len(assay["contributions"]) == 5
    assert assay["contribution_unit"] == "log10(mol/L)"
    assert assay["neighbours"][0].keys() == {"smiles", "similarity", "measured", "relation"}
    assert rows[1]["assays"] == {}


@pytest.mark.parametrize(
    "body",
    [
        {"smiles": []},
        {"smiles": ["C"] * 1001},
        {"smiles": "CCO"},
        {"smiles": ["C"], "level": 1},
        {"smiles": [7]},
        [],
        {},
    ],
)
async def test_what_is_no_request_is_refused(client: httpx.AsyncClient, body: object) -> None:
    assert (await client.post("/api/predict", json=body)).status_code == 422


async def test_the_description_for_programs_is_complete_and_loads_nothing(client: httpx.AsyncClient) -> None:
    description = (await client.get("/openapi.json")).json()
    assert set(description["paths"]) == {"/api/model", "/api/predict", "/api/explain"}
    assert description["paths"]["/api/predict"]["post"]["responses"].keys() >= {"200", "422", "429", "503"}
    assert (await client.get("/docs")).status_code == 404
    about = (await client.get("/api/model")).json()
    assert [endpoint["name"] for endpoint in about["assay_endpoints"]] == ["solubility", "herg"]
    assert about["knows_own_compounds"] is True


async def test_the_page_shows_values_and_why_and_escapes_what_was_entered(client: httpx.AsyncClient) -> None:
    pasted = "CCCCO <b>alpha</b>\n\n<script>alert(1)</script>\nCCCN"
    answer = await client.post("/", files={"smiles": (None, pasted), "level": (None, "0.8")})
    assert answer.status_code == 200, answer.text
    page = answer.text
    assert "<b>alpha" not in page
    assert "&lt;b&gt;alpha" in page
    assert "<script" not in page
    assert page.count("<figure>") == 4
    assert "4 structures" in page
    assert "80 %" in page
    assert "Nearest own compounds" in page
    assert not re.findall(r"""(?:src|href|action)=["'](?!data:|/)""", page), "nothing is loaded from elsewhere"
    assert "image/svg+xml" in page


async def test_the_style_is_the_servers_own(client: httpx.AsyncClient) -> None:
    answer = await client.get("/style.css")
    assert answer.headers["content-type"].startswith("text/css")
    assert "url(" not in answer.text
    assert "style=" not in (await client.get("/")).text, "the policy allows no style on an element"


async def test_a_table_comes_back_with_predictions_in_blocks(
    client: httpx.AsyncClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forms, "BLOCK_ROWS", 8)
    asked = SMILES[:20]
    table = "Id;SMILES;note\n" + "".join(f"{at};{text};=1+1\n" for at, text in enumerate(asked)) + "x;nonsense;\n"
    answer = await client.post("/predictions.csv", files={"table": ("mine.csv", table.encode())})
    assert answer.status_code == 200, answer.text
    assert "attachment" in answer.headers["content-disposition"]
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["SMILES"] for row in rows] == [*asked, "nonsense"]
    assert rows[0]["note"] == "'=1+1", "no formula runs in a spreadsheet"
    assert rows[-1]["kmel_reason"]
    expected = kmel_p2p.load(folder).predictions([SMILES[5]])[0].values["solubility"]
    assert float(rows[5]["kmel_solubility [mol/L]"]) == pytest.approx(expected, rel=1e-4)


async def test_pasted_structures_and_a_workbook_can_be_downloaded_too(client: httpx.AsyncClient) -> None:
    pasted = await client.post("/predictions.csv", files={"smiles": (None, "CCCO alpha\nCCCN")})
    assert [row["name"] for row in csv.DictReader(io.StringIO(pasted.text))] == ["alpha", ""]
    book = openpyxl.Workbook()
    for row in (["name", "smiles"], ["beta", "CCCO"]):
        book.active.append(row)
    content = io.BytesIO()
    book.save(content)
    sheet = await client.post("/predictions.csv", files={"table": ("mine.XLSX", content.getvalue())})
    assert "beta,CCCO," in sheet.text


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"smiles": (None, "")}, "paste structures or choose a table"),
        ({"smiles": (None, "C"), "table": ("a.csv", b"smiles\nC\n")}, "not both"),
        ({"table": ("a.csv", b"structure\nC\n")}, "table.csv: has no column &#39;smiles&#39;"),
        ({"table": ("a.csv", b"")}, "empty"),
        ({"table": ("../../etc/passwd", b"\x00\x01\x02\xff\xfe")}, "table.csv"),
        ({"table": ("a.xlsx", b"not a workbook")}, "table.xlsx"),
        ({"table": ("a.parquet", b"PAR1 nor this")}, "table.parquet"),
        ({"table": ("a.csv", b"smiles,kmel_reason\nC,\n")}, "kmel_reason"),
        ({"table": ("a.csv", b"smiles\n" + b"C\n" * 20_001)}, "20,000 at most"),
    ],
)
async def test_what_cannot_be_used_is_told_on_the_page(
    client: httpx.AsyncClient, files: dict[str, tuple[str | None, bytes | str]], told: str
) -> None:
    answer = await client.post("/predictions.csv", files=files)
    assert answer.status_code == 422
    assert told in answer.text
    assert "/tmp" not in answer.text, "where it was put is nobody's business"
    assert 'role="alert"' in answer.text


async def test_a_workbook_that_unpacks_to_anything_is_not_unpacked(client: httpx.AsyncClient) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("sheet.xml", "w") as part:
        for _ in range(201):
            part.write(bytes(1 << 20))
    answer = await client.post("/predictions.csv", files={"table": ("a.xlsx", content.getvalue())})
    assert answer.status_code == 422
    assert "table.xlsx: unpacks to 201 MiB" in answer.text


async def test_a_page_shows_the_first_of_many(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "MAX_EXPLAINED", 7)
    table = "smiles,name\n" + "".join(f"{text},n{at}\n" for at, text in enumerate(SMILES[:9]))
    page = (await client.post("/", files={"table": ("a.csv", table.encode())})).text
    assert "7 of 9 structures" in page
    assert re.findall(r'id="compound-(\d+)"', page) == [str(number) for number in range(1, 8)]
    assert "n6" in page
    assert "n7" not in page


async def test_uploaded_tables_do_not_stay(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    async with application(ModelWorker(Path("model"), MadeUpJobs)) as app:
        assert [stat.S_IMODE(os.stat(name).st_mode) for name in _below(tmp_path)] == [0o700]
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as client:
            # These jobs read no tables: whatever goes wrong, the file goes.
            answer = await client.post("/predictions.csv", files={"table": ("a.csv", b"smiles\nC\n")})
            assert "bug" in answer.text
        assert len(_below(tmp_path)) == 1
    assert _below(tmp_path) == []


def _below(folder: Path) -> list[str]:
    return glob.glob(f"{folder}/**", recursive=True)[1:]


async def test_when_the_queue_is_full_the_next_is_told_to_come_back() -> None:
    worker = ModelWorker(Path("model"), MadeUpJobs, waiting=1)
    async with (
        application(worker) as app,
        httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as client,
    ):
        async with worker.place():
            full = await client.post("/api/predict", json={"smiles": ["C"]})
            assert (full.status_code, full.headers["retry-after"]) == (429, "5")
            page = await client.post("/", files={"smiles": (None, "C")})
            assert page.status_code == 429
            assert "try again" in page.text
            assert (await client.get("/")).status_code == 200, "the page itself is there"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(worker, "_timeout_s", 0.2)
            assert (await client.post("/api/predict", json={"smiles": ["slow"]})).status_code == 503
        assert (await client.post("/api/predict", json={"smiles": ["C"]})).status_code == 200
        assert "&lt;north&gt;" in (await client.get("/")).text
        bug = await client.post("/api/predict", json={"smiles": ["bug"]})
        assert bug.status_code == 500
        assert "secret" not in bug.text


async def test_jobs_answer_with_plain_values(folder: Path) -> None:
    made = ModelJobs(folder)
    assert json.loads(json.dumps(made.about()))["digest"] == kmel_p2p.load(folder).card.digest
