"""Vectorised `repr` of floats: the shortest decimals that are parsed as the same floats.

An evaluation saves millions of numbers; with Python's `repr` (a microsecond each) that would take most of its time.

To remove: `write_rows` of `src/evaluation/detections.py` becomes `json.dump` of `as_rows`: the same bytes in six times
the time.
"""

from __future__ import annotations

import numpy as np

LOWEST, HIGHEST = -4, 5  # decimal exponents; other numbers are rare here and use `repr`
WIDTH = 24  # of the longest one, -1.7976931348623157e+308
_STEPS = np.array([float(f"1e{power}") for power in range(LOWEST, HIGHEST + 2)])
_SCALES = np.array([10.0 ** (16 - power) for power in range(LOWEST, HIGHEST + 1)])  # exact, as 1e22 is
_SPLIT = 2.0**27 + 1
_FOUR = np.frombuffer(b"".join(b"%04d" % number for number in range(10000)), np.uint32)


def texts(values: np.ndarray) -> np.ndarray:
    """uint8 [..., 24]: the characters of `repr` of each finite float of [...]; zero bytes are unused positions."""
    flat = np.ascontiguousarray(values, np.float64).reshape(-1)
    power = np.searchsorted(_STEPS, flat, side="right") - 1
    simple = (power >= 0) & (power <= HIGHEST - LOWEST)
    power = np.where(simple, power, 0)
    digits, doubtful = _digits(np.where(simple, flat, _STEPS[0]), power)
    fields = np.empty((len(flat), WIDTH), np.uint8)
    for value in np.flatnonzero(np.bincount(power)):
        rows = np.flatnonzero(power == value)
        fields[rows] = _with_point(digits[rows], LOWEST + int(value) + 1)
    zero = (flat == 0) & ~np.signbit(flat)
    fields[zero] = np.frombuffer(b"0.0".ljust(WIDTH, b"\0"), np.uint8)
    for row in np.flatnonzero((doubtful | ~simple) & ~zero):
        text = repr(float(flat[row])).encode()
        fields[row] = np.frombuffer(text.ljust(WIDTH, b"\0"), np.uint8)
    return fields.reshape((*np.shape(values), WIDTH))


def _with_point(digits: np.ndarray, before: int) -> np.ndarray:
    """uint8 [N, 24]: digits [N, 17] with a decimal point after the first `before` of them; leading zeros if it is not
    positive."""
    fields = np.zeros((len(digits), WIDTH), np.uint8)
    if before <= 0:
        fields[:, : 2 - before] = np.frombuffer(b"0.000"[: 2 - before], np.uint8)
        fields[:, 2 - before : 19 - before] = digits
    else:
        fields[:, :before] = digits[:, :before] | ord("0")  # zero bytes before the point become the digit 0
        fields[:, before] = ord(".")
        fields[:, before + 1 : 18] = digits[:, before:]
        fields[:, before + 1] |= ord("0")  # at least one digit after the point
    return fields


def _digits(values: np.ndarray, power: np.ndarray) -> tuple:
    """(decimal digits as uint8 [N, 17], trailing zeros as zero bytes; bool [N], where rounding makes them doubtful).

    17 digits always identify a float, and a decimal of up to 15 digits is always recovered from its float. So the
    nearest decimals of 15, 16 and 17 digits are tried in turn; the first within half the spacing of floats is the
    shortest.
    """
    scale = _SCALES[power]
    product, rest = _exact_product(values, scale)
    rounded = np.rint(rest)
    number = product.astype(np.int64) + rounded.astype(np.int64)  # of 17 digits; a product above 2^53 is an integer
    missing = rest - rounded
    reach = np.spacing(values) / 2 * scale
    last_two = number % 100
    last = last_two % 10
    by_15 = np.where(last_two + missing < 50, -last_two, 100 - last_two)  # to the nearest number that ends in 00
    by_16 = np.where(last + missing < 5, -last, 10 - last)
    far_15, far_16 = np.abs(by_15 - missing), np.abs(by_16 - missing)
    fits_15, fits_16 = far_15 < reach, far_16 < reach
    # a tie between two decimals of 16 digits, or a decimal at half the spacing of floats, within rounding errors
    doubtful = (np.abs(far_16 - reach) < 1e-9) | (fits_16 & (np.abs(far_16 - 5) < 1e-9))
    doubtful = (doubtful & ~fits_15) | (np.abs(far_15 - reach) < 1e-9)
    number += np.where(fits_15, by_15, np.where(fits_16, by_16, 0))
    digits = _characters(number)
    digits[fits_16 & ~fits_15, 16] = 0
    rows = np.flatnonzero(fits_15)
    short = digits[rows]
    short[np.logical_and.accumulate((short == ord("0"))[:, ::-1], axis=1)[:, ::-1]] = 0
    digits[rows] = short
    return digits, doubtful


def _exact_product(first: np.ndarray, second: np.ndarray) -> tuple:
    """(a, b): a + b is the exact product, a the float nearest to it (Dekker's algorithm)."""
    product = first * second
    wide = first * _SPLIT
    high = wide - (wide - first)
    low = first - high
    wide = second * _SPLIT
    high_2 = wide - (wide - second)
    low_2 = second - high_2
    return product, ((high * high_2 - product) + high * low_2 + low * high_2) + low * low_2


def _characters(number: np.ndarray) -> np.ndarray:
    """uint8 [N, 17]: the characters of 17-digit integers."""
    high = number // 10**8
    low = (number - high * 10**8).astype(np.uint32)
    high = high.astype(np.uint32)
    words = np.empty((len(number), 5), np.uint32)
    first = high // np.uint32(10**8)
    high = high - first * np.uint32(10**8)
    for column, half in ((1, high), (3, low)):
        thousands = half // np.uint32(10**4)
        words[:, column] = _FOUR[thousands]
        words[:, column + 1] = _FOUR[half - thousands * np.uint32(10**4)]
    words[:, 0] = _FOUR[first]
    return words.view(np.uint8)[:, 3:]
