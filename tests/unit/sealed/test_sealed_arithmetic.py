"""Keystream, masks, sharing and levels: exact for every group, and the published vectors."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmel_p2p.agreement.errors import LocalError, WireError
from kmel_p2p.agreement.identity import SiteKey
from kmel_p2p.core.sealed import keystream, levels, masking, pairs, sharing


def secret(*parts: object) -> bytes:
    return hashlib.sha256(repr(parts).encode()).digest()


def test_the_keystream_is_that_of_rfc_8439() -> None:
    # Appendix A.1, test vector 2: all-zero key and nonce, block counter 1.
    assert keystream.keystream(bytes(32), 64).hex() == (
        "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
        "29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f"
    )


def test_hkdf_is_that_of_rfc_5869() -> None:
    # Appendix A.1.
    key = keystream.extract(bytes(range(13)), b"\x0b" * 22)
    assert key.hex() == "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5"
    assert keystream.expand(key, bytes(range(0xF0, 0xFA)), 42).hex() == (
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    )


def test_positions_are_a_subset_of_known_size_that_depends_on_the_seed() -> None:
    chosen = keystream.positions(secret(1), 1000, 250)
    assert chosen.size == 250
    assert (np.diff(chosen) > 0).all()
    assert 0 <= chosen[0] <= chosen[-1] < 1000
    assert not np.array_equal(chosen, keystream.positions(secret(2), 1000, 250))
    assert np.array_equal(keystream.positions(secret(1), 9, 9), np.arange(9))


def test_every_position_is_chosen_about_equally_often() -> None:
    counts = np.zeros(64, np.int64)
    for n in range(800):
        counts[keystream.positions(secret(n), 64, 16)] += 1
    # Binomial with mean 200 and deviation 12.
    assert 130 < counts.min() <= counts.max() < 270


@settings(max_examples=40, deadline=None)
@given(data=st.data(), members=st.integers(2, 16), limit=st.sampled_from([1, 3, 7, 15, 127]), count=st.integers(1, 70))
def test_the_opened_sum_is_the_plain_sum_whoever_falls_out(data, members, limit, count) -> None:
    """Bit for bit, for every group and every part of it that sealed."""
    keys = sorted(SiteKey(secret("site", n)) for n in range(members))
    chosen = data.draw(st.sets(st.sampled_from(keys), min_size=1))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    q = {key: rng.integers(-limit, limit + 1, count) for key in keys}
    bits = masking.mask_bits(members, limit)
    selves = {key: secret("self", key) for key in keys}

    def mask_seed(a: SiteKey, b: SiteKey) -> bytes:
        return secret("pair", min(a, b), max(a, b))

    sealed = {
        key: masking.seal(
            q[key], limit, bits, key, selves[key], {other: mask_seed(key, other) for other in keys if other != key}
        )
        for key in keys
    }
    loose = [
        (masking.sign(key, other), mask_seed(key, other)) for key in chosen for other in keys if other not in chosen
    ]
    opened = masking.open_sum(
        [sealed[key] for key in chosen], count, limit, bits, [selves[key] for key in chosen], loose
    )
    assert np.array_equal(opened, sum(q[key] for key in chosen))


def test_a_sealed_vector_says_nothing_without_its_self_seed() -> None:
    """With all pair masks taken off, as after a fall-out, values are uniform: the self mask still hides them."""
    own, other = SiteKey(b"a" * 32), SiteKey(b"b" * 32)
    q = np.full(70_000, 7)
    packed = masking.seal(q, 7, 6, own, secret("self"), {other: secret("pair")})
    bare = masking.unpack(packed, q.size, 6) - keystream.words(secret("pair"), q.size, 6)
    counts = np.bincount(bare & 63, minlength=64)
    expected = q.size / 64
    assert ((counts - expected) ** 2 / expected).sum() < 130  # chi squared, 63 degrees of freedom, p = 1e-6


def test_a_sum_beyond_what_sites_can_seal_is_refused() -> None:
    own, seed = SiteKey(b"a" * 32), secret("self")
    outside = masking.pack((np.array([31]) + keystream.words(seed, 1, 5)).astype(np.uint16), 5)
    with pytest.raises(WireError, match="beyond"):
        masking.open_sum([outside], 1, 7, 5, [seed], [])
    honest = masking.seal(np.array([7]), 7, 5, own, seed, {})
    assert masking.open_sum([honest], 1, 7, 5, [seed], []).tolist() == [7]


@given(bits=st.integers(1, 16), values=st.lists(st.integers(0, 2**16 - 1), min_size=1, max_size=40))
def test_packed_values_come_back_and_have_one_spelling(bits, values) -> None:
    array = np.array(values, np.uint16)
    packed = masking.pack(array, bits)
    assert len(packed) == masking.packed_bytes(array.size, bits)
    assert np.array_equal(masking.unpack(packed, array.size, bits), array & (2**bits - 1))
    if array.size % 8:
        with pytest.raises(WireError, match="padding"):
            masking.unpack(packed[:-1] + bytes([packed[-1] | 1]), array.size, bits)
    with pytest.raises(WireError, match="bytes where"):
        masking.unpack(packed + b"\0", array.size, bits)


def test_bits_of_a_masked_value() -> None:
    assert [masking.mask_bits(k, 7) for k in (2, 4, 5, 8, 16)] == [5, 6, 7, 7, 8]


# ---- sharing ----------------------------------------------------------------------------------------------------


def committed(shares: list[bytes], context: bytes = b"round") -> list[bytes]:
    return [sharing.commitment(context, number, share) for number, share in enumerate(shares, 1)]


def test_the_modulus_is_the_first_prime_above_2_to_the_256() -> None:
    def is_prime(n: int) -> bool:
        odd, twos = n - 1, 0
        while odd % 2 == 0:
            odd, twos = odd // 2, twos + 1
        for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41):
            x = pow(base, odd, n)
            if x in (1, n - 1):
                continue
            if not any((x := x * x % n) == n - 1 for _ in range(twos - 1)):
                return False
        return True

    assert is_prime(sharing.PRIME)
    assert not any(is_prime(n) for n in range(2**256 + 1, sharing.PRIME, 2))


@settings(max_examples=30, deadline=None)
@given(data=st.data(), count=st.integers(2, 16), value=st.binary(min_size=32, max_size=32))
def test_any_threshold_of_shares_opens_the_secret(data, count, value) -> None:
    threshold = data.draw(st.integers(1, count))
    shares = sharing.deal(value, count, threshold)
    held = data.draw(st.sets(st.integers(1, count), min_size=threshold))
    assert sharing.combine({n: shares[n - 1] for n in held}, b"round", threshold, committed(shares)) == value


def test_fewer_shares_fit_every_secret() -> None:
    """For t - 1 shares and any secret at all there is a polynomial: they say nothing."""
    shares = sharing.deal(secret("dealt"), 5, 3)
    held = {n: int.from_bytes(shares[n - 1], "big") for n in (2, 4)}
    for guess in (secret("guess"), secret("another")):
        points = {0: int.from_bytes(guess, "big"), **held}
        assert all(sharing._at(points, x) == y for x, y in points.items())


def test_a_dealer_of_inconsistent_shares_is_found_out_by_every_set_of_shares() -> None:
    shares = sharing.deal(secret("one"), 5, 3)[:4] + sharing.deal(secret("other"), 5, 3)[4:]
    for held in ((1, 2, 3), (2, 3, 4), (3, 4, 5), (1, 2, 5)):
        with pytest.raises(WireError, match="not those of one secret"):
            sharing.combine({n: shares[n - 1] for n in held}, b"round", 3, committed(shares))


def test_a_secret_of_33_bytes_is_refused() -> None:
    shares = [(2**256 + 5).to_bytes(33, "big")] * 3
    with pytest.raises(WireError, match="not those of one secret"):
        sharing.combine({1: shares[0]}, b"round", 1, committed(shares))


def test_a_share_has_one_spelling_and_belongs_to_one_number_and_round() -> None:
    shares = sharing.deal(secret("one"), 3, 2)
    commitments = committed(shares)
    assert sharing.is_committed(b"round", 1, shares[0], commitments)
    above = (int.from_bytes(shares[0], "big") + sharing.PRIME).to_bytes(34, "big")
    for number, share, context in ((1, shares[1], b"round"), (1, shares[0], b"other"), (1, above, b"round")):
        assert not sharing.is_committed(context, number, share, commitments)
    # A non-canonical number is refused even where its dealer committed to it.
    wild = sharing.PRIME.to_bytes(33, "big")
    assert not sharing.is_committed(b"round", 1, wild, committed([wild]))


# ---- pairs ------------------------------------------------------------------------------------------------------

A, B = SiteKey(b"a" * 32), SiteKey(b"b" * 32)


def test_both_sides_of_a_pair_derive_the_same_secrets() -> None:
    here = pairs.pair(secret("a"), pairs.public_key(secret("b")), A, B, b"round")
    there = pairs.pair(secret("b"), pairs.public_key(secret("a")), B, A, b"round")
    assert here.mask_seed == there.mask_seed
    assert (here.out_key, here.in_key) == (there.in_key, there.out_key)
    assert len({here.mask_seed, here.out_key, here.in_key}) == 3
    later = pairs.pair(secret("a"), pairs.public_key(secret("b")), A, B, b"later")
    assert not {later.mask_seed, later.out_key, later.in_key} & {here.mask_seed, here.out_key, here.in_key}
    assert here.mask_seed.hex() not in repr(here)


@pytest.mark.parametrize(
    "point",
    [
        bytes(32),
        b"\1" + bytes(31),
        bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
        bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
        (2**255 - 20).to_bytes(32, "little"),
        (2**255 - 19).to_bytes(32, "little"),
        (2**255 - 18).to_bytes(32, "little"),
    ],
)
def test_a_point_of_small_order_makes_no_pair(point) -> None:
    with pytest.raises(WireError, match="small order"):
        pairs.pair(secret("a"), point, A, B, b"round")


def test_a_share_decrypts_under_its_own_key_alone() -> None:
    here = pairs.pair(secret("a"), pairs.public_key(secret("b")), A, B, b"round")
    share = sharing.deal(secret("self"), 3, 2)[1]
    sealed = pairs.encrypt_share(here.out_key, share, b"dealing")
    assert len(sealed) == pairs.SEALED_SHARE_BYTES
    assert pairs.decrypt_share(here.out_key, sealed, b"dealing") == share
    altered = sealed[:-1] + bytes([sealed[-1] ^ 1])
    wrong = [(here.in_key, sealed, b"dealing"), (here.out_key, altered, b"dealing"), (here.out_key, sealed, b"other")]
    for key, data, dealing in wrong:
        with pytest.raises(WireError, match="does not decrypt"):
            pairs.decrypt_share(key, data, dealing)
    with pytest.raises(WireError, match="49 are needed"):
        pairs.decrypt_share(here.out_key, b"", b"dealing")


# ---- levels -----------------------------------------------------------------------------------------------------


def test_what_is_sent_and_what_is_left_add_up() -> None:
    residual = np.linspace(-0.3, 0.3, 41, dtype=np.float32)
    at = keystream.positions(secret(3), 41, 20)
    q, left = levels.quantise(residual, at, -6, 7)
    assert np.abs(q).max() == 7
    whole = left.copy()
    whole[at] += (q * 2.0**-6).astype(np.float32)
    assert np.allclose(whole, residual, atol=1e-8)
    others = np.setdiff1d(np.arange(41), at)
    assert np.array_equal(left[others], residual[others])
    residual[at[0]] = np.nan
    with pytest.raises(LocalError, match="not finite"):
        levels.quantise(residual, at, -6, 7)


def test_a_sum_is_added_and_subtracted_exactly() -> None:
    trunk = np.arange(-5, 5) * 2**30 + 1
    at, total = np.array([0, 3, 9]), np.array([-35, 0, 35])
    changed = trunk.copy()
    levels.add_sum(changed, at, total, -12)
    assert changed[9] - trunk[9] == 35 * 2**28
    levels.add_sum(changed, at, -total, -12)
    assert np.array_equal(changed, trunk)


def test_the_step_follows_the_sums() -> None:
    rng = np.random.default_rng(1)
    exponent = -3
    for _ in range(12):
        sealed = np.clip(np.rint(rng.standard_normal((5, 4000)) * 0.004 * 2.0**-exponent), -7, 7).astype(np.int64)
        exponent = levels.next_exponent(exponent, sealed.sum(0), 5, 7)
    assert exponent in (-10, -9, -8)
    assert levels.next_exponent(-9, np.full(50, 35), 5, 7) == -7
    assert levels.next_exponent(-40, np.zeros(50, np.int64), 5, 7) == -40
    assert levels.first_exponent(1e-3, 10, 5) == -12


@given(sizes=st.lists(st.integers(0, 2**20), min_size=1, max_size=16), cap=st.floats(1.0, 4.0))
def test_weights_of_a_group_add_up_and_keep_the_cap(sizes, cap) -> None:
    weights = [levels.share_of(size, sizes[:n] + sizes[n + 1 :], cap) for n, size in enumerate(sizes)]
    assert sum(weights) == pytest.approx(1.0)
    assert max(weights) <= cap / len(sizes) + 1e-12 or len(sizes) <= cap
    assert [w for _, w in sorted(zip(sizes, weights, strict=True))] == sorted(weights)
