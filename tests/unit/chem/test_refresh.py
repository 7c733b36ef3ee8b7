"""What changed since a dataset was trained on: found, counted, and read back only where it is whole."""

from __future__ import annotations

import gzip
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.chem.dataset.refresh import KEPT, DataChange, changes, counted, learned_from, read_measured

# The time would make another name of the test in another process: pytest-xdist ends where two collect different tests.
packed = partial(gzip.compress, mtime=0)
keys = st.tuples(st.sampled_from("abc"), st.sampled_from(["logd", "herg"]))
datasets = st.dictionaries(keys, st.tuples(st.sampled_from([-1, 0, 1]), st.floats(-3, 3, width=32)))


@given(datasets, datasets)
def test_changes_lead_from_one_dataset_to_the_other(
    before: dict[tuple[str, str], tuple[int, float]], now: dict[tuple[str, str], tuple[int, float]]
) -> None:
    found = changes(before, now)
    rebuilt = dict(before)
    for one in found:
        if one.now is None:
            del rebuilt[one.compound, one.endpoint]
        else:
            rebuilt[one.compound, one.endpoint] = one.now
    assert rebuilt.keys() == now.keys()
    assert all(rebuilt[key][0] == now[key][0] and abs(rebuilt[key][1] - now[key][1]) <= 1e-6 for key in now)
    assert sum(sum(kinds.values()) for kinds in counted(found, ["logd", "herg"]).values()) == len(found)
    assert changes(now, now) == []


def test_versions_that_had_what_is_gone_are_named() -> None:
    gone = [DataChange("a", "logd", (0, 1.0), None), DataChange("b", "logd", (0, 1.0), None)]
    versions = {"old": {("a", "logd"): (0, 2.0)}, "new": {("c", "logd"): (0, 1.0)}}
    assert learned_from(gone, versions) == {"old": 1}


@pytest.mark.parametrize(
    "content",
    [b"", b"no gzip", packed(b""), packed(b"dataset,ab\nwrong,header\n"),
     packed(b"dataset,ab\ncompound,assay_endpoint,relation,value\na,logd,x,1\n"),
     packed(b"dataset,ab\ncompound,assay_endpoint,relation,value\na\n"),
     packed(b"dataset,ab\ncompound,assay_endpoint,relation,value\n")[:-6]],
)  # fmt: skip
def test_a_damaged_file_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / KEPT).write_bytes(content)
    with pytest.raises(ConfigError, match=f"{KEPT}: is damaged"):
        read_measured(tmp_path / KEPT)
    with pytest.raises(ConfigError, match="of an earlier program"):
        read_measured(tmp_path / "none")
