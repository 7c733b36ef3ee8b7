import pytest

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.core.membership import LAN, PRESETS, WAN, preset
from kmel_p2p.core.membership.settings import (
    confirmations_wanted,
    retransmit_limit,
    suspicion_max_us,
    suspicion_min_us,
    sync_interval_us,
)
from kmel_p2p.core.types import SECOND

# N, then LAN and WAN (shortest, longest) suspicion in seconds, LAN transmissions, LAN sync interval in seconds.
MEMBERLIST_TABLE = [
    (4, (4.0, 24.0), (30.0, 180.0), 4, 30),
    (16, (4.8, 28.9), (36.1, 217.0), 8, 30),
    (64, (7.2, 43.3), (54.2, 325.0), 8, 60),
    (256, (9.6, 57.8), (72.2, 434.0), 12, 120),
    (1000, (12.0, 72.0), (90.0, 540.0), 16, 180),
    (4096, (14.4, 86.7), (108.4, 650.0), 16, 240),
]


@pytest.mark.parametrize(("sites", "lan", "wan", "transmissions", "sync"), MEMBERLIST_TABLE)
def test_formulas_give_memberlists_derived_values(sites, lan, wan, transmissions, sync):
    for settings, (shortest, longest) in ((LAN, lan), (WAN, wan)):
        assert suspicion_min_us(settings, sites) / SECOND == pytest.approx(shortest, rel=0.02)
        assert suspicion_max_us(settings, sites) / SECOND == pytest.approx(longest, rel=0.02)
    assert retransmit_limit(LAN, sites) == transmissions
    assert sync_interval_us(LAN, sites) == sync * SECOND


def test_no_confirmation_is_wanted_where_too_few_members_could_give_it():
    assert [confirmations_wanted(LAN, n) for n in (1, 2, 3, 4, 5, 16)] == [0, 0, 0, 2, 2, 2]
    assert [confirmations_wanted(WAN, n) for n in (4, 5, 6, 16)] == [0, 0, 4, 4]


def test_every_preset_is_found_by_name_and_an_unknown_one_names_the_choices():
    assert [preset(name) for name in ("lan", "wan", "sim")] == list(PRESETS.values())
    with pytest.raises(ConfigError, match="lan, wan, sim"):
        preset("lna")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"probe_timeout_us": SECOND}, "probe_timeout_us .* too large beside probe_interval_us"),
        ({"gossip_interval_us": 2 * SECOND}, "gossip_interval_us"),
        ({"dial_first_us": 60 * SECOND}, "reconnect_interval_us"),
        ({"piggyback_bytes": 1000}, "message_budget_bytes"),
        ({"probe_intervall_us": SECOND}, "did you mean 'probe_interval_us'"),
        ({"indirect_probes": -1}, "indirect_probes"),
    ],
)
def test_values_that_do_not_fit_together_are_refused_with_both_names(changes, said):
    with pytest.raises(ConfigError, match=said):
        LAN.with_changes(**changes)
