"""Golomb codes for gaps and scale steps, written and read with whole-array operations.

Golomb (1966): a number is a quotient in unary and a remainder. Divisors are powers of two (Rice 1979) and three
times powers of two; at 1 value in 64 the optimum is 44, and 48 costs 0.06 bits per number less than 32. Parameter
numbers count the divisors upwards: 0 is 1, 1 is 2, 2 is 3, 3 is 4, 4 is 6, 5 is 8, 6 is 12 and so on.

All quotients come first, then what remains: for divisors of the second kind a digit 0, 10 or 11 (all first bits, then
all second ones), then the low bits.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from kmel_p2p.agreement.errors import WireError
from kmel_p2p.delta.bits import BitReader, pack_fixed, pack_flags, pack_unary

Ints = NDArray[np.int64]

MAX_PARAMETER = 31
"""Its divisor is 2**16, so there are at most 16 low bits."""

LOW_BITS: Ints = np.array([0] + [(n + 1) // 2 if n % 2 else n // 2 - 1 for n in range(1, MAX_PARAMETER + 1)])
IS_TERNARY: NDArray[np.bool_] = np.arange(MAX_PARAMETER + 1) % 2 == 0
IS_TERNARY[0] = False
DIVISORS: Ints = np.where(IS_TERNARY, 3, 1) << LOW_BITS

_LN2 = 45426
"""ln 2 in units of 2**-16."""

_BELOW = 4
_ABOVE = 1


def parameters(values: Ints, counts: Ints, largest: int = MAX_PARAMETER) -> Ints:
    """The parameter of each segment, int64[segments]; 0 for an empty one.

    The rule is part of the format. A middle parameter suits geometric numbers of the same mean; of those from 4 below
    to 1 above it the cheapest is taken, of equal ones the smallest.

    Args:
        values: the non-negative numbers of all segments, end to end.
        counts: int64[segments], numbers per segment.
        largest: largest parameter that the format has room for.
    """
    best = np.zeros(counts.size, np.int64)
    start = 0
    for segment, count in enumerate(counts.tolist()):
        part = values[start : start + count]
        start += count
        if count:
            ideal = (int(part.sum()) * _LN2 >> 16) // count + 1
            middle = int(np.searchsorted(DIVISORS, ideal, side="right")) - 1
            candidates = range(max(middle - _BELOW, 0), min(middle + _ABOVE, largest) + 1)
            best[segment] = min(candidates, key=lambda parameter: _cost(part, parameter), default=largest)
    return best


def pack_golomb(values: Ints, counts: Ints, parameter: Ints) -> bytes:
    """Four sections: quotients, first digit bits, second digit bits, low bits."""
    ternary = np.repeat(IS_TERNARY[parameter], counts)
    high = values >> np.repeat(LOW_BITS[parameter], counts)
    quotients = np.where(ternary, high // 3, high)
    digits = (high - 3 * quotients)[ternary]
    return b"".join(
        (
            pack_unary(quotients),
            pack_flags(digits > 0),
            pack_flags(digits[digits > 0] == 2),
            pack_fixed(values, counts, LOW_BITS[parameter]),
        )
    )


def read_golomb(reader: BitReader, counts: Ints, parameter: Ints, largest: int = MAX_PARAMETER) -> Ints:
    """The numbers of all segments, end to end; none exceeds 2**17 times the bits in the payload.

    Raises:
        WireError: a parameter is not the one that its numbers require, or a section is malformed.
    """
    if int(parameter.max(initial=0)) > MAX_PARAMETER:
        raise WireError(f"Golomb parameter {int(parameter.max())} is above {MAX_PARAMETER}")
    high = reader.unary(int(counts.sum()))
    ternary = np.flatnonzero(np.repeat(IS_TERNARY[parameter], counts))
    digits = reader.flags(ternary.size).astype(np.int64)
    digits[digits > 0] += reader.flags(int(digits.sum()))
    high[ternary] = 3 * high[ternary] + digits
    low = reader.fixed(counts, LOW_BITS[parameter])
    values = (high << np.repeat(LOW_BITS[parameter], counts)) + low
    if (parameters(values, counts, largest) != parameter).any():
        raise WireError("a Golomb parameter is not the one that its numbers require")
    return values


def worst_bits(count: int, total: int) -> int:
    """Most bits that at most `count` numbers with a sum of at most `total` can take, cut into any segments.

    A segment costs no more than under the divisor d that suits its mean m: n * (3 + log2 d) + n * m / d bits, where
    d <= 1 + m * ln 2 < 2 * d (beyond the largest divisor, n * m / 2**16). Written as n * f(m), f is concave and
    n * f(total / n) grows with n, so one full segment is the worst case.
    """
    mean = total / max(count, 1)
    per_number = 3 + math.log2(1 + mean * math.log(2)) + 2 / math.log(2)
    return math.ceil(count * per_number) + (total >> 16) + 1


def _cost(values: Ints, parameter: int) -> int:
    high = values >> int(LOW_BITS[parameter])
    bits = values.size * (1 + int(LOW_BITS[parameter]))
    if not IS_TERNARY[parameter]:
        return bits + int(high.sum())
    quotients = high // 3
    return bits + int(quotients.sum()) + values.size + int(np.count_nonzero(high - 3 * quotients))
