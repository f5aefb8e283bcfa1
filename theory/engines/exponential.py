"""Powers of two in compiled loops: exponentials of costs, which never make a denormal number."""

import numpy as np
from numba import types
from numba.core.errors import TypingError
from numba.extending import intrinsic, overload


@intrinsic
def bits(context, x):
    """The bits of a float as an integer of the same width."""
    kinds = {types.float32: types.int32, types.float64: types.int64}
    if x not in kinds:
        raise TypingError(f"no bits of {x}")
    integer = kinds[x]
    return integer(x), lambda c, builder, signature, values: builder.bitcast(values[0], c.get_value_type(integer))


@intrinsic
def _float(context, x):
    """The float that has these bits."""
    kinds = {types.int32: types.float32, types.int64: types.float64}
    if x not in kinds:
        raise TypingError(f"no float of {x}")
    real = kinds[x]
    return real(x), lambda c, builder, signature, values: builder.bitcast(values[0], c.get_value_type(real))


def _taylor(terms: int, kind: type) -> tuple:
    """Coefficients of ``2^f = sum_i (f ln 2)^i / i!``, enough for ``|f| <= 1/2`` at the precision."""
    factorial, coefficients = 1.0, []
    for i in range(terms):
        factorial *= max(i, 1)
        coefficients.append(kind(np.log(2.0) ** i / factorial))
    return tuple(coefficients)


SINGLE = _taylor(7, np.float32)
DOUBLE = _taylor(13, np.float64)
ROUND32, ROUND64 = np.float32(1.5 * 2**23), np.float64(1.5 * 2**52)  # adding this rounds to an integer, kept in the low bits
LOW32, LOW64 = np.float32(-120.0), np.float64(-1000.0)


def exp2(x):
    """``2^x`` for x up to some bits above 0, floored at 2^-120 (float32) or 2^-1000: no denormal number is ever made."""
    raise NotImplementedError


@overload(exp2, jit_options={"fastmath": {"contract", "nnan"}})
def _exp2(x):
    if x not in (types.float32, types.float64):
        return None
    if x == types.float32:

        def single(x):
            x = max(x, LOW32)
            shifted = x + ROUND32
            f = x - (shifted - ROUND32)
            p = SINGLE[0] + f * (SINGLE[1] + f * (SINGLE[2] + f * (SINGLE[3] + f * (SINGLE[4] + f * (SINGLE[5] + f * SINGLE[6])))))
            return _float(np.int32(bits(p) + (bits(shifted) << 23)))  # integers are promoted to 64 bits

        return single

    def double(x):
        x = max(x, LOW64)
        shifted = x + ROUND64
        f = x - (shifted - ROUND64)
        high = DOUBLE[7] + f * (DOUBLE[8] + f * (DOUBLE[9] + f * (DOUBLE[10] + f * (DOUBLE[11] + f * DOUBLE[12]))))
        p = DOUBLE[0] + f * (DOUBLE[1] + f * (DOUBLE[2] + f * (DOUBLE[3] + f * (DOUBLE[4] + f * (DOUBLE[5] + f * (DOUBLE[6] + f * high))))))
        return _float(bits(p) + (bits(shifted) << 52))

    return double
