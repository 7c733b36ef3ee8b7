"""The log: one JSON record per line, whoever writes it."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.site.observe.logs import configure_logging
from kmel_p2p.site.observe.status import (
    AveragingStatus,
    MembershipStatus,
    MemberStatus,
    ProcessStatus,
    SitePhase,
    StatusDocument,
    TrainerStatus,
)


@pytest.fixture(autouse=True)
def _logging_is_put_back() -> Iterator[None]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    for handler in root.handlers[:]:
        if handler not in before:
            root.removeHandler(handler)
            handler.close()
    root.handlers[:] = before
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def records(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_structlog_logging_and_warnings_share_one_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    root.handlers[:] = []
    path = tmp_path / "peer.log"
    configure_logging("info", "json", path, site="north")
    structlog.get_logger().info("entry_published", number=3, key=Path("x"))
    structlog.get_logger().debug("not kept")
    logging.getLogger("library").warning("odd: %s", 7)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old call", DeprecationWarning, stacklevel=1)
    try:
        raise ValueError("broken")
    except ValueError:
        structlog.get_logger().exception("failed")
    found = records(path)
    assert [r["event"] for r in found[:2]] == ["entry_published", "odd: 7"]
    assert "old call" in str(found[2]["event"])
    assert found[3]["exception"][0]["exc_value"] == "broken"  # type: ignore[index]
    assert all(r["site"] == "north" and r["level"] and r["timestamp"] for r in found)
    shown = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [r["event"] for r in shown] == [r["event"] for r in found]


def test_console_lines_are_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logging.getLogger().handlers[:] = []
    configure_logging("debug", "console", None)
    structlog.get_logger().debug("probe", rtt_ms=3)
    err = capsys.readouterr().err
    assert "probe" in err
    assert "rtt_ms=3" in err


def test_a_log_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    logging.getLogger().handlers[:] = []
    with pytest.raises(ConfigError, match="cannot open the log"):
        configure_logging("info", "json", tmp_path / "no" / "peer.log")


def test_the_status_document_is_plain_data() -> None:
    document = StatusDocument(
        site="north",
        key="ab",
        federation="f",
        charter_id="cd",
        phase=SitePhase.TRAINING,
        reason="",
        process=ProcessStatus(pid=1, rss_bytes=2, uptime_s=3.0),
        trainer=TrainerStatus("preparing", progress=("structures", 3, 10)),
        mode="ledger",
        averaging=AveragingStatus(vector={"north": 3}, digest="ef", published=3, applied=4, facts={"ended": {}}),
        members=(MemberStatus("south", "99", "alive", 1.0),),
        membership=MembershipStatus(1, {"dials": 2}),
    )
    plain = document.as_dict()
    assert json.loads(json.dumps(plain))["members"][0]["state"] == "alive"
    assert plain["ledger"]["vector"] == {"north": 3}
    assert plain["ledger"]["ended"] == {}
    assert plain["membership"] == {"health": 1, "counters": {"dials": 2}}
    assert plain["schema"] == 1
    assert StatusDocument.parse(json.loads(json.dumps(plain))) == document
