"""predict block by block: shards, interrupted runs, Parquet, and how far it is."""

from __future__ import annotations

import csv
import errno
import fcntl
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest

from kmel_p2p.chem.structures import parallel
from kmel_p2p.chem.structures.described import LOST
from kmel_p2p.cli.exits import ExitCode
from kmel_p2p.cli.progress import EVERY_S, LinesOfLog, LongWork
from kmel_p2p.learn.predict import predict as predicting
from kmel_p2p.learn.predict.predict import Model
from tests.support.cli_harness import Run
from tests.support.crashing import CRASHING, crash_on_one
from tests.support.small_model import HERG, LOGS, write_small_model

ROWS = [f"{'C' * (n + 1)}O" if n != 4 else "bad((" for n in range(11)]
BLOCK = 3


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_model(tmp_path_factory.mktemp("model"), (LOGS, HERG))


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(predicting, "BLOCK", BLOCK)
    monkeypatch.setattr("kmel_p2p.chem.structures.parallel.usable_cores", lambda: 1)  # processes take seconds to start
    path = tmp_path / "in.csv"
    path.write_text("id,smiles\n" + "".join(f"{at},{smiles}\n" for at, smiles in enumerate(ROWS)))
    return path


def table(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


@pytest.fixture
def described(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the blocks predicted."""
    sizes: list[int] = []
    block = Model._block

    def counted(self: Model, described: Any, *arguments: Any) -> Any:
        sizes.append(len(described.row_of))
        return block(self, described, *arguments)

    monkeypatch.setattr(Model, "_block", counted)
    return sizes


def interrupt_after(monkeypatch: pytest.MonkeyPatch, blocks: int, error: BaseException) -> None:
    seen = []
    block = Model._block

    def failing(self: Model, *arguments: Any) -> Any:
        if len(seen) == blocks:
            raise error
        seen.append(1)
        return block(self, *arguments)

    monkeypatch.setattr(Model, "_block", failing)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_shards_one_after_the_other_are_the_whole(
    tmp_path: Path, run: Run, model_dir: Path, source: Path, suffix: str
) -> None:
    def read(name: str) -> pd.DataFrame:
        path = tmp_path / f"{name}.{suffix}"
        return pd.read_csv(path, dtype=str) if suffix == "csv" else pd.read_parquet(path)

    assert run("predict", source, "-o", tmp_path / f"all.{suffix}", "--model-dir", model_dir).code == 0
    for part in range(1, 5):
        done = run("predict", source, "-o", tmp_path / f"{part}.{suffix}", "--model-dir", model_dir, "--shard",
                   f"{part}/4")  # fmt: skip
        assert done.code == 0, done.err
    parts = [read(str(part)) for part in range(1, 5)]
    assert [len(part) for part in parts] == [2, 3, 3, 3]
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), read("all"))
    assert not list(tmp_path.glob("*.unfinished"))


def test_more_shards_than_rows_leave_some_empty(tmp_path: Path, run: Run, model_dir: Path, source: Path) -> None:
    done = run("predict", source, "-o", tmp_path / "out.parquet", "--model-dir", model_dir, "--shard", "1/40")
    assert done.code == 0, done.err
    assert "0 of 0 rows predicted" in done.err
    assert len(pd.read_parquet(tmp_path / "out.parquet")) == 0
    printed = run("predict", source, "--json", "--model-dir", model_dir, "--shard", "1/40")
    assert json.loads(printed.out)["rows"] == []


@pytest.mark.parametrize("wrong", ["0/4", "5/4", "4", "a/b", "1/0", "-1/4"])
def test_an_impossible_shard_is_refused(run: Run, model_dir: Path, source: Path, wrong: str) -> None:
    done = run("predict", source, "--model-dir", model_dir, "--shard", wrong)
    assert done.code == ExitCode.USAGE
    assert "is no K/N" in done.err


@pytest.mark.parametrize("kind", ["out.csv", "out.parquet", "out.json"])
def test_an_interrupted_run_goes_on_where_it_stopped(
    tmp_path: Path, run: Run, model_dir: Path, source: Path, monkeypatch: pytest.MonkeyPatch, described: list[int],
    kind: str,
) -> None:  # fmt: skip
    more = ("--json",) if kind.endswith("json") else ()
    output, whole = tmp_path / kind, tmp_path / f"whole-{kind}"
    output.write_text("from before")
    assert run("predict", source, "-o", whole, "--model-dir", model_dir, *more).code == 0
    command = ("predict", source, "-o", output, "--model-dir", model_dir, *more)
    with monkeypatch.context() as patched:
        interrupt_after(patched, 2, KeyboardInterrupt())
        stopped = run(*command)
    assert stopped.code == ExitCode.INTERRUPTED
    assert "keeps 6 rows that are done; --resume goes on" in stopped.err
    assert output.read_text() == "from before", "nothing half-written under the final name"
    again = run(*command)
    assert again.code == ExitCode.CONFIG
    assert "holds 2 blocks of a run that did not end; --resume goes on from there" in again.err
    described.clear()
    resumed = run(*command, "--resume")
    assert resumed.code == 0, resumed.err
    assert "6 rows were done before" in resumed.err
    assert "10 of 11 rows predicted" in resumed.err
    assert described == [3, 2]
    if kind.endswith("parquet"):
        pd.testing.assert_frame_equal(pd.read_parquet(output), pd.read_parquet(whole))
    else:
        assert output.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob("*.unfinished"))
    assert run(*command, "--resume").code == 0, "with nothing to resume, it is a run like any other"


def test_a_run_is_not_resumed_from_something_else(
    tmp_path: Path, run: Run, model_dir: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, other = tmp_path / "out.csv", write_small_model(tmp_path / "other", (LOGS, HERG), seed=1)
    with monkeypatch.context() as patched:
        interrupt_after(patched, 2, KeyboardInterrupt())
        run("predict", source, "-o", output, "--model-dir", model_dir)
    resume = ("predict", source, "-o", output, "--resume", "--model-dir")
    for given, said in (
        ((other,), "another model"),
        ((model_dir, "--level", "0.8"), "another set of options"),
        ((model_dir, "--shard", "1/2"), "another set of options"),
    ):
        refused = run(*resume, *given)
        assert refused.code == ExitCode.CONFIG
        assert said in refused.err
    source.write_text(source.read_text().replace("CCO", "CCN"))
    assert "another input" in run(*resume, model_dir).err
    assert len(list(output.with_name("out.csv.unfinished").glob("*.part"))) == 2


def test_a_damaged_block_and_those_after_it_are_done_again(
    tmp_path: Path, run: Run, model_dir: Path, source: Path, monkeypatch: pytest.MonkeyPatch, described: list[int]
) -> None:
    output = tmp_path / "out.csv"
    with monkeypatch.context() as patched:
        interrupt_after(patched, 3, KeyboardInterrupt())
        run("predict", source, "-o", output, "--model-dir", model_dir)
    part = tmp_path / "out.csv.unfinished" / "00000001.part"
    part.write_bytes(part.read_bytes()[:-1])
    described.clear()
    assert run("predict", source, "-o", output, "--model-dir", model_dir, "--resume").code == 0
    assert described == [3, 3, 2]
    assert output.read_text() == run("predict", source, "--model-dir", model_dir).out


def test_blocks_of_another_run_are_never_taken_for_this_ones(
    tmp_path: Path, run: Run, model_dir: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.csv"
    with monkeypatch.context() as patched:
        interrupt_after(patched, 3, KeyboardInterrupt())
        run("predict", source, "-o", output, "--model-dir", model_dir)
    (tmp_path / "out.csv.unfinished" / "00000000.json").unlink()
    source.write_text(source.read_text().replace("bad((", "CCN"))
    with monkeypatch.context() as patched:
        interrupt_after(patched, 1, KeyboardInterrupt())
        run("predict", source, "-o", output, "--model-dir", model_dir)
    assert run("predict", source, "-o", output, "--model-dir", model_dir, "--resume").code == 0
    assert output.read_text() == run("predict", source, "--model-dir", model_dir).out


def test_what_is_no_output_of_ours_is_left_alone(tmp_path: Path, run: Run, model_dir: Path, source: Path) -> None:
    folder = tmp_path / "out.csv.unfinished"
    folder.mkdir(mode=0o755)
    (folder / "thesis.txt").write_text("years of work")
    done = run("predict", source, "-o", tmp_path / "out.csv", "--model-dir", model_dir)
    assert done.code == ExitCode.CONFIG
    assert "holds 'thesis.txt'; move it away" in done.err
    assert (folder / "thesis.txt").read_text() == "years of work"
    os.mkfifo(tmp_path / "pipe")
    refused = run("predict", source, "-o", tmp_path / "pipe", "--model-dir", model_dir)
    assert refused.code == ExitCode.USAGE
    assert "leave out -o" in refused.err
    assert (tmp_path / "pipe").is_fifo()


def test_a_full_disk_loses_no_block_that_is_done(
    tmp_path: Path, run: Run, model_dir: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, synced = tmp_path / "out.csv", []
    with monkeypatch.context() as patched:

        def full(handle: int) -> None:
            synced.append(handle)
            if len(synced) > 12:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patched.setattr(os, "fsync", full)
        stopped = run("predict", source, "-o", output, "--model-dir", model_dir)
    assert stopped.code == ExitCode.CONFIG
    assert "No space left" in stopped.err
    assert "--resume goes on" in stopped.err
    assert not output.exists()
    assert run("predict", source, "-o", output, "--model-dir", model_dir, "--resume").code == 0
    assert output.read_text() == run("predict", source, "--model-dir", model_dir).out


def test_one_process_at_a_time_writes_an_output(tmp_path: Path, run: Run, model_dir: Path, source: Path) -> None:
    folder = tmp_path / "out.csv.unfinished"
    folder.mkdir()
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        done = run("predict", source, "-o", tmp_path / "out.csv", "--model-dir", model_dir)
    finally:
        os.close(handle)
    assert done.code == ExitCode.CONFIG
    assert "another process is writing this output" in done.err


def test_nothing_is_left_of_a_run_that_did_nothing(
    tmp_path: Path, run: Run, model_dir: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        interrupt_after(patched, 0, KeyboardInterrupt())
        run("predict", source, "-o", tmp_path / "out.csv", "--model-dir", model_dir)
    assert not list(tmp_path.glob("out*"))
    assert run("predict", source, "--resume", "--model-dir", model_dir).code == ExitCode.USAGE


def test_a_broken_row_far_down_is_refused_before_anything_is_predicted(
    tmp_path: Path, run: Run, model_dir: Path, source: Path, described: list[int]
) -> None:
    source.write_text(source.read_text() + "12,CCO,too,many\n")
    done = run("predict", source, "-o", tmp_path / "out.csv", "--model-dir", model_dir)
    assert done.code == ExitCode.DATA
    assert "row 13 has 4 fields, the header has 2" in done.err
    assert described == []


def test_parquet_columns_keep_their_types(tmp_path: Path, run: Run, model_dir: Path, source: Path) -> None:
    given = pd.DataFrame(
        {"id": [7, 8, 9, 10], "smiles": ["CCO", None, "c1ccccc1", "CCN"], "when": pd.to_datetime(["2024-05-31"] * 4),
         "dose": [0.5, None, 1, 2], "tags": [["a"], [], None, ["b", "c"]]},
        index=pd.Index(list("abcd"), name="batch"),
    )  # fmt: skip
    given.to_parquet(tmp_path / "in.parquet", row_group_size=2)
    done = run("predict", tmp_path / "in.parquet", "-o", tmp_path / "out.parquet", "--model-dir", model_dir)
    assert done.code == 0, done.err
    found = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    before = pyarrow.parquet.read_table(tmp_path / "in.parquet")
    assert found.select(before.column_names).equals(before)
    frame = pd.read_parquet(tmp_path / "out.parquet")
    assert list(frame.index) == list("abcd")
    assert frame["kmel_herg"].dtype == float
    assert list(frame["kmel_reason"]) == ["", "no SMILES", "", ""]
    assert frame["kmel_logS_lower"].isna().tolist() == [False, True, False, False]
    text = table(run("predict", tmp_path / "in.parquet", "--model-dir", model_dir).out)
    assert [row[0] for row in text] == ["id", "7", "8", "9", "10"]
    refused = run("predict", source, "-o", tmp_path / "out.parquet", "--json", "--model-dir", model_dir)
    assert refused.code == ExitCode.USAGE


def test_a_log_shows_how_far_long_work_is_and_short_work_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    now = 1000.0
    lines = LinesOfLog("structures", lambda: now)
    work = LongWork(1_000_000, lines)
    work.add(256)
    assert capsys.readouterr().err == ""
    now += EVERY_S + 1
    work.add(5844)
    assert capsys.readouterr().err == "6,100 of 1,000,000 structures, 100 per second, 2.8 h left\n"
    now += 1
    work.reach(6100)
    assert capsys.readouterr().err == ""
    now += EVERY_S
    work.add(900)
    assert capsys.readouterr().err.startswith("7,000 of 1,000,000 structures, 57 per second")


def test_of_equal_structures_all_are_counted_when_their_block_is_done() -> None:
    seen: list[tuple[int, int]] = []
    work = LongWork(10, lambda done, total: seen.append((done, total)))
    work.add(2)
    work.add(4)  # two of them belong to the next block
    work.reach(4)
    work.add(1)
    work.reach(6)
    assert seen == [(2, 10), (6, 10), (6, 10), (7, 10), (10, 10)]


KILLED = """
import os, signal, sys
from kmel_p2p.chem.structures import parallel
from kmel_p2p.cli.main import invoke
from kmel_p2p.learn.predict import predict as predicting

predicting.BLOCK, parallel.usable_cores = 3, lambda: 1
block, seen = predicting.Model._block, []

def killed(self, *given):
    if len(seen) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    seen.append(1)
    return block(self, *given)

predicting.Model._block = killed
invoke(sys.argv[1:])
"""


def test_a_killed_run_loses_no_block_that_was_done(
    tmp_path: Path, run: Run, model_dir: Path, source: Path, described: list[int]
) -> None:
    output = tmp_path / "out.csv"
    command = ["predict", str(source), "-o", str(output), "--model-dir", str(model_dir)]
    killed = subprocess.run([sys.executable, "-c", KILLED, *command], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not output.exists()
    assert run(*command, "--resume").code == 0
    assert described == [3, 2]
    assert output.read_text() == run("predict", source, "--model-dir", model_dir).out


CRASHED = """
import sys
from kmel_p2p.chem.structures import parallel
from kmel_p2p.cli.main import invoke
from tests.support.crashing import crash_on_one

parallel.usable_cores = lambda: 1
crash_on_one()
invoke(sys.argv[1:])
"""


def test_a_run_that_crashed_goes_on_without_the_structure_that_did_it(
    tmp_path: Path, run: Run, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, output = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text(f"smiles\nCCO\n{CRASHING}\nCCN\n")
    command = ["predict", str(source), "-o", str(output), "--model-dir", str(model_dir)]
    crashed = subprocess.run([sys.executable, "-c", CRASHED, *command], check=False, stderr=subprocess.DEVNULL)
    assert crashed.returncode == -signal.SIGABRT
    monkeypatch.setattr(parallel, "end_with_parent", crash_on_one)
    assert run(*command, "--resume").code == 0
    rows = list(csv.DictReader(output.read_text().splitlines()))
    assert [row["kmel_reason"] for row in rows] == ["", LOST, ""]
    assert not (tmp_path / "out.csv.unfinished").exists()
