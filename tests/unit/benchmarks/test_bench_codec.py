"""Size and speed of codec and accumulator as ratios taken in one run, with wide margins."""

from __future__ import annotations

from benchmarks import accumulate, codec


def test_entries_are_as_small_as_promised_and_cost_a_few_passes() -> None:
    figures: dict[str, float] = {}
    codec.random_case(4_000_000, figures)
    # Sizes do not depend on the machine; a time ratio has ten times the room it needs.
    assert figures["ratio_2bit"] >= 212
    assert figures["ratio_1bit"] >= 235
    assert figures["index_bits"] <= 7.55
    assert figures["encode_over_copy"] <= 100


def test_a_digest_costs_about_one_pass_of_its_hash() -> None:
    figures: dict[str, float] = {}
    accumulate.digest_case(figures)
    assert figures["digest_over_blake2b"] <= 2.0
