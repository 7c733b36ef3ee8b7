"""The application: routes behind the guard, and the worker that lives as long as it does."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from kmel_p2p.agreement.errors import DataError, KmelError
from kmel_p2p.serve import api, forms
from kmel_p2p.serve.worker import BusyError, LostError, ModelWorker
from kmel_p2p.version import VERSION
from kmel_p2p.web.guard import MAX_BODY_BYTES, Guard

RETRY_S = 5


@asynccontextmanager
async def application(worker: ModelWorker, token: str = "", most_bytes: int = MAX_BODY_BYTES) -> AsyncIterator[Guard]:
    """The application while it may serve.

    Args:
        token: that requests must carry; empty for none.
        most_bytes: of a body.

    Raises:
        ConfigError: the models cannot be loaded.
    """
    try:
        await worker.start()
        about = api.About(**await worker.ask("about"))
        with tempfile.TemporaryDirectory(prefix="kmel-serve-") as folder:
            yield Guard(_app(worker, about, Path(folder)), token, most_bytes)
    finally:
        await worker.close()


def _app(worker: ModelWorker, about: api.About, folder: Path) -> FastAPI:
    # The pages that FastAPI makes of its description load scripts from elsewhere.
    summary = "Predictions with the models of one site"
    app = FastAPI(title="kmel-peer serve", version=VERSION, summary=summary, docs_url=None, redoc_url=None)
    app.include_router(forms.routes(worker, about, folder))
    app.include_router(api.routes(worker, about))

    @app.exception_handler(BusyError)
    async def busy(request: Request, error: BusyError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 429, {"Retry-After": str(RETRY_S)})

    @app.exception_handler(LostError)
    async def lost(request: Request, error: LostError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 503)

    @app.exception_handler(KmelError)
    async def failed(request: Request, error: KmelError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 500)

    @app.exception_handler(DataError)
    async def unusable(request: Request, error: DataError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 422)

    return app
