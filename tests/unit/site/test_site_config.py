"""Settings of a site: what is accepted, and what an error says."""

from __future__ import annotations

from pathlib import Path

import pytest

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.cli.init import site_template
from kmel_p2p.site.config import KEY_VARIABLE, load_config, parse_config

MINIMAL = """
[site]
name = "north"

[data]
path = "measurements.csv"

[data.columns]
"logS" = { column = "SOL", unit = "log(mol/L)" }
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "site.toml"
    path.write_text(text)
    return path


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep").mkdir()
    path = write(tmp_path / "deep", MINIMAL)
    monkeypatch.chdir(tmp_path)
    config = load_config(Path("deep/site.toml"))
    assert path.is_absolute()
    assert config.data.path == tmp_path / "deep" / "measurements.csv"
    assert config.site.state_dir == tmp_path / "deep" / "state"
    assert config.site.key_file == tmp_path / "deep" / "site.key"
    assert config.data.test is None


def test_an_absolute_path_stays(tmp_path: Path) -> None:
    config = parse_config(MINIMAL.replace("measurements.csv", "/data/m.csv"), tmp_path / "site.toml")
    assert config.data.path == Path("/data/m.csv")


def test_the_effective_settings_read_back_equal(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, MINIMAL))
    assert parse_config(config.render(), tmp_path / "elsewhere" / "other.toml") == config


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (MINIMAL.replace("path =", "pth ="), r"unknown key 'data.pth'; did you mean 'path'"),
        (MINIMAL.replace("column =", "colum ="), r"unknown key 'data.columns.logS.colum'; did you mean 'column'"),
        (MINIMAL.replace("[site]", "[sites]"), r"unknown key 'sites'; did you mean 'site'"),
        (MINIMAL.replace('name = "north"', ""), r"key 'site.name' is missing"),
        (MINIMAL.replace("north", "North Site"), r"key 'site.name' is 'North Site'"),
        (MINIMAL + "[resources]\nthreads = '2'\n", r"key 'resources.threads' is '2'"),
        (MINIMAL + "[resources]\nthreads = -1\n", r"key 'resources.threads' is -1"),
        (MINIMAL + "[network]\nbind = '7700'\n", r"tcp://host:port"),
        (MINIMAL + "[network]\nbind = 'tcp://0.0.0.0:99999'\n", r"tcp://host:port"),
        (MINIMAL + "[network]\npreset = 'lann'\n", r"key 'network.preset' is 'lann'"),
        (
            MINIMAL + "[network]\noutbound_only = true\nadvertise = ['tcp://a.example:7700']\n",
            r"remove 'advertise'",
        ),
        (MINIMAL.replace("[data.columns]", "[data.columns"), r"not TOML"),
    ],
)
def test_an_error_names_file_key_and_remedy(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=said) as caught:
        load_config(path)
    assert str(path) in str(caught.value)


def test_columns_may_not_be_empty(tmp_path: Path) -> None:
    text = MINIMAL.partition("[data.columns]")[0] + "[data.columns]\n"
    with pytest.raises(ConfigError, match=r"data\.columns"):
        load_config(write(tmp_path, text))


def test_missing_large_and_binary_files_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file; kmel-peer init"):
        load_config(tmp_path / "none.toml")
    large = tmp_path / "large.toml"
    large.write_bytes(b"#" * (2 << 20))
    with pytest.raises(ConfigError, match="right file"):
        load_config(large)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"name = '\xff'")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(binary)


@pytest.mark.parametrize("address", ["tcp://[2001:db8::7]:7700", "tcp://peer.example:0", "tcp://192.0.2.1:65535"])
def test_addresses_of_every_kind_are_accepted(tmp_path: Path, address: str) -> None:
    config = load_config(write(tmp_path, MINIMAL + f"[network]\nbind = '{address}'\n"))
    assert config.network.bind == address


def test_the_environment_may_name_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = site_template("north")
    assert parse_config(text, tmp_path / "site.toml").site.key_file == tmp_path / "site.key"
    monkeypatch.setenv(KEY_VARIABLE, "/run/credentials/kmel-peer@admet.service/site.key")
    config = parse_config(text, tmp_path / "site.toml")
    assert config.site.key_file == Path("/run/credentials/kmel-peer@admet.service/site.key")


@pytest.mark.parametrize(
    "proxy", ["http://proxy.example:8080", "socks5://user:secret@proxy.example:1080", "proxy:1080"]
)
def test_a_proxy_is_socks5_without_a_login(tmp_path: Path, proxy: str) -> None:
    with pytest.raises(ConfigError, match=r"'network.proxy' is .*: expected a proxy such as"):
        parse_config(site_template("north", proxy=proxy), tmp_path / "site.toml")
    config = parse_config(site_template("north", proxy="socks5://proxy.example:1080"), tmp_path / "site.toml")
    assert config.network.proxy_address == "proxy.example:1080"
