"""From three keys to a charter in force, and everything that keeps it from being so."""

from __future__ import annotations

import importlib.util
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmel_p2p.agreement.charter import Charter, CharterDocument
from kmel_p2p.agreement.strict import build, parse_toml
from kmel_p2p.cli.charter_comments import commented
from kmel_p2p.cli.exits import ExitCode
from kmel_p2p.site.keys import load_key
from tests.support.cli_harness import Run

NAMES = ("north", "south", "west")


@pytest.fixture
def founders(tmp_path: Path, run: Run) -> dict[str, Path]:
    for name in NAMES:
        assert run("init", tmp_path / name, "--name", name).code == 0
    return {name: tmp_path / name / "site.key" for name in NAMES}


def draft(run: Run, founders: dict[str, Path], path: Path) -> Path:
    sites = [f"--site={name}={load_key(key).key.hex()}@tcp://{name}.example:7700" for name, key in founders.items()]
    endpoint = "--endpoint=logS,unit=log10(mol/L),center=-3,scale=2,head=shared,low=-14,high=3"
    done = run("charter", "new", "--federation", "demo", *sites, endpoint, "--seed", 7, "-o", path)
    assert done.code == 0, done.err
    return path


@pytest.fixture
def path(tmp_path: Path, run: Run, founders: dict[str, Path]) -> Path:
    return draft(run, founders, tmp_path / "charter.toml")


def test_a_chain_of_signatures_puts_it_in_force(run: Run, path: Path, founders: dict[str, Path]) -> None:
    for name, key in founders.items():
        before = run("charter", "verify", path)
        assert before.code == ExitCode.DOES_NOT_HOLD
        assert f"site {name!r} has not signed" in before.err
        assert run("charter", "sign", "--yes", path, "--key", key).code == 0
    done = run("charter", "verify", path)
    assert done.code == 0, done.err
    assert "In force: demo" in done.out
    assert json.loads(run("charter", "verify", path, "--json").out)["in_force"] is True


def test_a_draft_says_why_its_settings_suit_the_announced_size(run: Run, tmp_path: Path) -> None:
    small, large = tmp_path / "small.toml", tmp_path / "large.toml"
    assert run("init", tmp_path / "north", "--name", "north").code == 0
    key = tmp_path / "north" / "site.key"
    site = f"--site=north={load_key(key).key.hex()}"
    new = ("charter", "new", "--federation", "demo", site, "--endpoint=logd,head=shared")
    told = run(*new, "-o", small).out
    assert "300 compounds (nothing was announced)" in told
    assert run(*new, "--compounds", 5000, "-o", large).code == 0
    few, many = (json.loads(run("charter", "show", path, "--json").out)["charter"] for path in (small, large))
    steps = [at["averaging"]["entry_limit"] * at["averaging"]["steps_per_entry"] for at in (few, many)]
    assert steps[0] < steps[1]
    assert few["pace"]["patience"] > 0
    assert few["pace"]["start_sites"] == 1
    assert few["split"]["valid_fraction"] > many["split"]["valid_fraction"]
    assert few["model"]["hidden"] < many["model"]["hidden"]
    assert "there are classes" in run(*new[:-1], "--endpoint=ames,head=shared", "-o", tmp_path / "classes.toml").out
    sure = json.loads(run("charter", "show", tmp_path / "classes.toml", "--json").out)["charter"]
    assert sure["training"]["learning_rate"] < few["training"]["learning_rate"]
    comments = [line for line in small.read_text().splitlines() if line.startswith("#")]
    assert all(line.removeprefix("# ") in told for line in comments[:6])
    assert run("charter", "sign", "--yes", small, "--key", key).code == 0
    assert [line for line in small.read_text().splitlines() if line.startswith("#")] == comments


def test_separate_signatures_are_merged(run: Run, path: Path, founders: dict[str, Path], tmp_path: Path) -> None:
    copies = [tmp_path / f"{name}.toml" for name in founders]
    for copy, key in zip(copies, founders.values(), strict=True):
        assert run("charter", "sign", "--yes", path, "--key", key, "-o", copy).code == 0
    assert run("charter", "merge", *copies, "-o", tmp_path / "all.toml").code == 0
    assert run("charter", "verify", tmp_path / "all.toml").code == 0
    copies[0].write_text(copies[0].read_text().replace("seed = 7", "seed = 8"))
    refused = run("charter", "merge", *copies, "-o", tmp_path / "other.toml")
    assert refused.code == ExitCode.CONFIG
    assert str(copies[1]) in refused.err


def test_any_change_takes_the_signatures_force_away(run: Run, path: Path, founders: dict[str, Path]) -> None:
    for key in founders.values():
        run("charter", "sign", "--yes", path, "--key", key)
    path.write_text("# a comment changes nothing\n" + path.read_text())
    assert run("charter", "verify", path).code == 0
    path.write_text(path.read_text().replace("seed = 7", "seed = 8"))
    done = run("charter", "verify", path)
    assert done.code == ExitCode.DOES_NOT_HOLD
    assert done.err.count("is not of this charter") == 3


def test_other_features_here_are_told(run: Run, path: Path, founders: dict[str, Path]) -> None:
    text = path.read_text()
    at = text.index('reference_hash = "') + len('reference_hash = "')
    path.write_text(text[:at] + "0" * 64 + text[at + 64 :])
    for key in founders.values():
        run("charter", "sign", "--yes", path, "--key", key)
    done = run("charter", "verify", path)
    assert done.code == ExitCode.DOES_NOT_HOLD
    assert "RDKit" in done.err


@pytest.mark.skipif(importlib.util.find_spec("chemprop") is None, reason="chemprop (extra gnn) is not installed")
def test_a_draft_may_be_made_for_another_trunk_or_become_one(
    run: Run, path: Path, founders: dict[str, Path], tmp_path: Path
) -> None:
    key = load_key(founders["north"]).key.hex()
    sites = ["--site", f"north={key}@tcp://north.example:7700"]
    other = tmp_path / "graphs.toml"
    drafted = ("charter", "new", "--federation", "demo", *sites, "--endpoint=logd,unit=1,low=-5,high=9")
    assert run(*drafted, "--trunk", "dmpnn", "-o", other).code == 0
    assert "featuriser" not in run("charter", "verify", other).err

    text = path.read_text()
    assert text.count('trunk = "mlp"') == 1
    path.write_text(text.replace('trunk = "mlp"', 'trunk = "dmpnn"'))
    told = run("charter", "verify", path).err
    assert "chemprop" in told
    (found,) = re.findall(r"set reference_hash to ([0-9a-f]{64})", told)
    assert f'reference_hash = "{found}"' in other.read_text()
    run("charter", "sign", "--yes", path, "--key", founders["north"])
    assert "set reference_hash" not in run("charter", "verify", path).err


def test_a_stranger_cannot_sign(run: Run, path: Path, tmp_path: Path) -> None:
    run("init", tmp_path / "stranger", "--name", "stranger")
    done = run("charter", "sign", "--yes", path, "--key", tmp_path / "stranger" / "site.key")
    assert done.code == ExitCode.CONFIG
    assert "ask whoever drafts the charter" in done.err


def test_show_is_for_reading_before_signing(run: Run, path: Path, founders: dict[str, Path]) -> None:
    run("charter", "sign", "--yes", path, "--key", founders["north"])
    shown = run("charter", "show", path).out
    for text in ("demo", "north", "good", "missing", "logS", "shared", "entry_limit"):
        assert text in shown
    document = json.loads(run("charter", "show", path, "--json").out)
    assert document["charter"]["assay_endpoints"][0]["valid_range"] == [-14.0, 3.0]
    assert list(document["signatures"]) == ["north"]


def test_settings_of_the_loss_leave_the_rules_of_the_catalogue(
    run: Run, founders: dict[str, Path], tmp_path: Path
) -> None:
    key, path = load_key(founders["north"]).key.hex(), tmp_path / "cyp.toml"
    settings = "cyp3a4_ic50,head=shared,beyond_bound=0.25,positive_weight=2"
    assert run("charter", "new", "--federation=x", f"--site=north={key}", "--endpoint", settings, "-o", path).code == 0
    (rules,) = json.loads(run("charter", "show", path, "--json").out)["charter"]["assay_endpoints"]
    assert (rules["beyond_bound"], rules["positive_weight"], rules["head"]) == (0.25, 2.0, "shared")
    assert (rules["unit"], rules["transform"], rules["scale"]) == ("umol/L", "log10", 0.8)


def test_a_draft_is_not_overwritten(run: Run, path: Path, founders: dict[str, Path]) -> None:
    before = path.read_text()
    key = load_key(founders["north"]).key.hex()
    done = run(
        "charter", "new", "--federation", "other", f"--site=north={key}", "--endpoint=logd", "-o", path
    )  # fmt: skip
    assert done.code == ExitCode.CONFIG
    assert path.read_text() == before


@pytest.mark.parametrize(
    ("site", "endpoint", "code", "said"),
    [
        ("north", "logd", ExitCode.USAGE, "NAME=KEY"),
        ("north=abc", "logd", ExitCode.CONFIG, "sites.0.key"),
        ("north=" + "ff" * 32, "logd", ExitCode.CONFIG, "no Ed25519 public key"),
        ("north={key}", "hERG", ExitCode.USAGE, "did you mean 'herg_block'?"),
        ("north={key}", "hlm,head=shared", ExitCode.USAGE, "did you mean 'hlm_clint'?"),
        ("north={key}", "shoesize", ExitCode.USAGE, "`kmel-peer data catalogue` lists all"),
        ("north={key}", "logS,scale", ExitCode.USAGE, "KEY=VALUE"),
        ("north={key}", "logS,scale=x", ExitCode.USAGE, "not a number"),
        ("north={key}", "logS,scal=2", ExitCode.CONFIG, "scale"),
        ("north={key}", "logS,low=3,high=1", ExitCode.CONFIG, "valid_range"),
        ("north={key}", "logd,beyond_bound=2", ExitCode.CONFIG, "beyond_bound"),
    ],
)
def test_a_wrong_draft_says_what_is_wrong(
    run: Run, founders: dict[str, Path], tmp_path: Path, site: str, endpoint: str, code: ExitCode, said: str
) -> None:
    key = load_key(founders["north"]).key.hex()
    path = tmp_path / "wrong.toml"
    done = run(
        "charter", "new", "--federation", "x", "--site", site.format(key=key), "--endpoint", endpoint, "-o", path
    )
    assert done.code == code
    assert said in done.err
    assert not path.exists()


def test_a_draft_for_a_projected_trunk_has_its_shape(run: Run, founders: dict[str, Path], tmp_path: Path) -> None:
    key, draft = load_key(founders["north"]).key.hex(), tmp_path / "projected.toml"
    drafted = ("charter", "new", "--federation", "demo", "--site", f"north={key}", "--endpoint=logd", "--seed", 5)
    assert run(*drafted, "--trunk", "projected", "-o", draft).code == 0
    model = CharterDocument.parse(draft.read_text(), "draft").charter.model
    assert (model.hidden, model.projection, model.seed) == ((128, 64), 256, 5)
    assert "projection 256" in " ".join(run("charter", "show", draft).out.split())
    assert "featuriser" not in run("charter", "verify", draft).err
    draft.write_text(draft.read_text().replace("seed = 5", "seed = 6"))
    assert "[features] or [model] was edited" in run("charter", "verify", draft).err


def test_every_setting_of_a_draft_has_its_comment(path: Path) -> None:
    lines = path.read_text().splitlines()
    settings = [at for at, line in enumerate(lines) if re.match(r"[a-z_]+ = ", line)]
    bare = {lines[at].partition(" = ")[0] for at in settings if not lines[at - 1].startswith("#")}
    # The second and later sites are as the first.
    assert bare <= {"name", "key", "addresses"}
    assert {lines[at].partition(" = ")[0] for at in settings} >= {"quorum", "fold_key", "norm_cap", "beyond_bound"}
    assert max(len(line) for line in lines[lines.index("") :] if line.startswith("#")) <= 120


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        yield from leaves(value[0], path)
    else:
        yield path


def test_show_leaves_out_nothing_that_is_signed(run: Run, path: Path) -> None:
    shown = run("charter", "show", path).out
    document = json.loads(run("charter", "show", path, "--json").out)
    missing = {leaf[-1] for leaf in leaves(document["charter"]) if leaf[-1] not in shown}
    assert missing == {"federation", "version"}, shown
    assert "quorum majority" in " ".join(shown.split())


def test_diff_names_each_setting_that_differs(run: Run, path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    text = path.read_text().replace("seed = 7", "seed = 8").replace("high = 3", "high = 4")
    other.write_text("# agreed in May\n" + text.replace('name = "south"', 'name = "soth"'))
    assert run("charter", "diff", path, path).code == 0
    done = run("charter", "diff", path, other)
    assert done.code == ExitCode.DOES_NOT_HOLD
    assert "model.seed: 7 -> 8" in done.out
    assert re.search(r"site south: .* -> -", done.out)
    assert re.search(r"site soth: - -> ", done.out)
    rows = json.loads(run("charter", "diff", path, other, "--json").out)
    assert {"setting": "model.seed", "one": "7", "other": "8"} in rows
    assert len(rows) == 3


def test_a_charter_is_shown_and_asked_about_before_it_is_signed(
    run: Run, path: Path, founders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for answer, signed in (("n\n", False), ("", False), ("y\n", True)):
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        done = run("charter", "sign", path, "--key", founders["north"])
        assert "entry_limit" in done.out
        assert ("[signatures]" in path.read_text()) is signed
        assert done.code == (0 if answer else ExitCode.USAGE)
        assert answer or "--yes" in done.err


@given(
    hidden=st.lists(st.integers(1, 999), min_size=1, max_size=3),
    rate=st.floats(1e-6, 1.0),
    unit=st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp", "Cf")), max_size=8),
    mode=st.sampled_from(["ledger", "pushsum"]),
    sites=st.integers(1, 3),
)
def test_a_commented_text_reads_back_as_it_was(
    hidden: list[int], rate: float, unit: str, mode: str, sites: int
) -> None:
    raw = {
        "federation": "demo",
        "sites": [{"name": f"s{n}", "key": f"{n:064x}", "addresses": ["tcp://s:1"]} for n in range(sites)],
        "model": {"hidden": hidden},
        "training": {"learning_rate": rate},
        "averaging": {"mode": mode},
        "assay_endpoints": [{"name": "logD", "unit": unit}, {"name": "b", "kind": "classification"}],
    }
    document = CharterDocument(charter=build(Charter, raw, "test"), signatures={"s0": "ab" * 64})
    assert parse_toml(CharterDocument, commented(document), "text") == document
