"""The process of the models: one job at a time, few in waiting, and a new process when one is lost."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from kmel_p2p.agreement.errors import ConfigError, DataError, LocalError
from kmel_p2p.serve.worker import BusyError, LostError, ModelWorker
from tests.support.made_up_jobs import MadeUpJobs


@pytest.fixture
async def worker() -> AsyncIterator[ModelWorker]:
    made = ModelWorker(Path("model"), MadeUpJobs, waiting=2)
    await made.start()
    yield made
    await made.close()


async def test_jobs_run_in_a_process_of_their_own(worker: ModelWorker) -> None:
    assert await worker.ask("where") not in (None, os.getpid())
    found = await asyncio.gather(*(worker.ask("predict", smiles=["C"], level=0.9) for _ in range(3)))
    assert [rows[0]["predictions"]["logD"]["model"] for rows in found] == ["1", "2", "3"], "one after the other"


async def test_errors_of_a_job_come_back_typed(worker: ModelWorker) -> None:
    with pytest.raises(DataError, match="cannot be used"):
        await worker.ask("predict", smiles=["refused"], level=0.9)
    with pytest.raises(LocalError, match=r"bug \(ZeroDivisionError\)"):
        await worker.ask("predict", smiles=["bug"], level=0.9)
    assert await worker.ask("predict", smiles=["C"], level=0.9), "the process goes on"


async def test_a_crash_costs_one_answer_and_the_next_one_comes_from_a_new_process(worker: ModelWorker) -> None:
    before = await worker.ask("where")
    with pytest.raises(LostError, match="process that computes ended"):
        await worker.ask("predict", smiles=["crash"], level=0.9)
    assert await worker.ask("where") != before


async def test_what_takes_too_long_is_given_up() -> None:
    worker = ModelWorker(Path("model"), MadeUpJobs, timeout_s=0.2)
    await worker.start()
    try:
        with pytest.raises(LostError, match=r"more than 0\.2 s"):
            await worker.ask("predict", smiles=["slow"], level=0.9)
    finally:
        await worker.close()


async def test_few_may_wait_and_a_place_is_given_back(worker: ModelWorker) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(worker.place())
        await stack.enter_async_context(worker.place())
        with pytest.raises(BusyError, match="try again"):
            async with worker.place():
                pass
    async with worker.place():
        assert await worker.ask("where")


@pytest.mark.parametrize(("folder", "message"), [("missing", "no model here yet"), ("crashing", "is memory short")])
async def test_models_that_cannot_be_loaded_say_so(folder: str, message: str) -> None:
    worker = ModelWorker(Path(folder), MadeUpJobs)
    with pytest.raises(ConfigError, match=message):
        await worker.start()
    await worker.close()


async def test_the_event_loop_goes_on_while_a_job_runs() -> None:
    worker = ModelWorker(Path("model"), MadeUpJobs, timeout_s=1.0)
    await worker.start()
    try:
        job = asyncio.create_task(worker.ask("predict", smiles=["slow"], level=0.9))
        turns = 0
        while not job.done():
            await asyncio.wait([job], timeout=0.02)
            turns += 1
        assert turns > 2
        with pytest.raises(LostError):
            job.result()
    finally:
        await worker.close()


def test_the_server_itself_loads_neither_torch_nor_rdkit() -> None:
    script = (
        "import sys, kmel_p2p.serve.app, kmel_p2p.cli.serve; print(sorted({'torch', 'rdkit'} & sys.modules.keys()))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
