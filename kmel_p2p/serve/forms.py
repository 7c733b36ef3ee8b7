"""The page: a form for structures or a table, and what comes of it, as sections or as CSV."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Any

import markupsafe
from fastapi import APIRouter, File, Form, UploadFile
from fastapi.responses import HTMLResponse, Response, StreamingResponse

from kmel_p2p.agreement.errors import DataError, KmelError
from kmel_p2p.serve.api import MAX_EXPLAINED, About
from kmel_p2p.serve.spool import spooled
from kmel_p2p.serve.worker import BusyError, LostError, ModelWorker
from kmel_p2p.web.templates import page
from kmel_p2p.web.templates import style as sheet

BLOCK_ROWS = 256
"""Rows of a table computed at a time: a second or two, between which other requests have their turn."""

LEVELS = (0.5, 0.8, 0.9, 0.95)
"""Offered by the form."""

EXPLAINED_AT_ONCE = 5
"""Compounds of one job."""

COPIED = 1 << 16

Pasted = Annotated[str, Form(max_length=1_000_000)]
Uploaded = Annotated[UploadFile | None, File()]
Column = Annotated[str, Form(max_length=200)]
Chosen = Annotated[float, Form(gt=0, lt=1)]


def routes(worker: ModelWorker, about: About, folder: Path) -> APIRouter:
    """The routes of the page.

    Args:
        folder: for uploaded tables while they are read.
    """
    router = APIRouter(include_in_schema=False)

    def shown(status: int = 200, **values: Any) -> HTMLResponse:
        usual = {"about": about, "levels": LEVELS, "most": MAX_EXPLAINED, "level": 0.9, "pasted": "",
                 "column": "smiles", "results": "", "problem": "", "told": ""}  # fmt: skip
        return HTMLResponse(page("kmel_p2p.serve", "page.html", usual | values), status)

    @router.get("/")
    async def form() -> HTMLResponse:
        return shown()

    @router.get("/style.css")
    async def style() -> Response:
        return Response(sheet(("kmel_p2p.serve", "style.css")), media_type="text/css")

    @router.post("/")
    async def explained(
        smiles: Pasted = "", table: Uploaded = None, column: Column = "smiles", level: Chosen = 0.9
    ) -> HTMLResponse:
        kept: dict[str, Any] = {"pasted": smiles, "column": column, "level": level}
        try:
            async with worker.place(), AsyncExitStack() as stack:
                path = await _source(stack, folder, smiles, table)
                start = await worker.ask("table_start", path=path, smiles_column=column, most=MAX_EXPLAINED)
                sections = ""
                for first in range(0, len(start["smiles"]), EXPLAINED_AT_ONCE):
                    part = slice(first, first + EXPLAINED_AT_ONCE)
                    sections += await worker.ask(
                        "cards", smiles=start["smiles"][part], names=start["names"][part], level=level, first=first + 1
                    )
        except KmelError as error:
            return shown(_status(error), problem=str(error), **kept)
        count = len(start["smiles"])
        told = f"{count} of {start['rows']:,} structures" if count < start["rows"] else f"{count} structures"
        return shown(results=markupsafe.Markup(sections), told=told, **kept)  # escaped by the worker's template

    @router.post("/predictions.csv")
    async def as_csv(
        smiles: Pasted = "", table: Uploaded = None, column: Column = "smiles", level: Chosen = 0.9
    ) -> Response:
        stack = AsyncExitStack()

        async def rows() -> AsyncGenerator[str, None]:
            async with stack:
                yield shape["head"]
                for start in range(0, shape["rows"], BLOCK_ROWS):
                    yield await worker.ask(
                        "table_rows", path=path, smiles_column=column, start=start, size=BLOCK_ROWS, level=level
                    )

        try:
            await stack.enter_async_context(worker.place())
            path = await _source(stack, folder, smiles, table)
            shape = await worker.ask("table_shape", path=path, smiles_column=column)
            # The place in the queue is given back when all is computed, however slowly the client reads.
            content = await spooled(rows(), folder)
        except KmelError as error:
            await stack.aclose()
            return shown(_status(error), problem=str(error), pasted=smiles, column=column, level=level)
        except BaseException:
            await stack.aclose()
            raise
        headers = {"Content-Disposition": 'attachment; filename="predictions.csv"'}
        return StreamingResponse(content, media_type="text/csv; charset=utf-8", headers=headers)

    return router


async def _source(stack: AsyncExitStack, folder: Path, smiles: str, table: UploadFile | None) -> Path:
    """What was sent as a file, which goes when the stack is closed.

    Raises:
        DataError: nothing was sent, or both.
    """
    uploaded = table is not None and bool(table.filename)
    if uploaded == bool(smiles.strip()):
        raise DataError("paste structures or choose a table" + (", not both" if uploaded else ""))
    place = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder)))
    if table is None or not uploaded:
        # The reader of SMILES lists: a structure per line, then a blank and a name.
        path = place / "pasted.smi"
        text = "\n".join(line.strip() for line in smiles.strip().splitlines()) + "\n"
        await asyncio.to_thread(path.write_text, text, "utf-8")
        return path
    suffix = Path(table.filename or "").suffix.lower()
    path = place / f"table{suffix if suffix in SUFFIXES else '.csv'}"
    with await asyncio.to_thread(path.open, "wb") as file:
        while part := await table.read(COPIED):
            await asyncio.to_thread(file.write, part)
    return path


SUFFIXES = (".csv", ".tsv", ".txt", ".smi", ".smiles", ".ism", ".sdf", ".sd", ".parquet", ".xlsx")
"""Of uploaded tables; the suffix says how a file is read, and nothing else of its name is used."""


def _status(error: KmelError) -> int:
    return 429 if isinstance(error, BusyError) else 503 if isinstance(error, LostError) else 422
