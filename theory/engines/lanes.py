"""Numbers of sixteen training images side by side, as one value in compiled loops.

A `Lanes` value becomes one or several registers of the processor, whichever it has, so that a loop is written as for a single image and
runs for all. Such values are loaded from and stored to pointers, which are quicker to hand from function to function than arrays.
"""

import operator

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.errors import TypingError
from numba.extending import intrinsic, models, overload, register_model

from theory.engines.exponential import DOUBLE, LOW32, LOW64, ROUND32, ROUND64, SINGLE, exp2

LANES = 16
_FLAGS = ("contract", "nnan", "ninf", "nsz")  # no infinities and no NaN come in; nothing is reordered


def aligned(size: int, kind: np.dtype) -> np.ndarray:
    """Room that begins with a line of the cache, so that no vector lies on two."""
    room = np.empty(size + 64, kind)
    return room[(-room.ctypes.data % 64) // room.itemsize :][:size]


class Lanes(types.Type):
    """`LANES` numbers of one kind."""

    def __init__(self, scalar: types.Float) -> None:
        self.scalar = scalar
        super().__init__(name=f"Lanes({scalar})")

    @property
    def key(self) -> types.Float:
        return self.scalar


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, kind: Lanes) -> None:
        super().__init__(manager, kind, ir.VectorType(manager.lookup(kind.scalar).get_value_type(), LANES))


_KINDS = {scalar: Lanes(scalar) for scalar in (types.float32, types.float64)}
_BITS = {types.float32: (32, 23), types.float64: (64, 52)}  # of the number, and of its fraction


def _all(vector: ir.VectorType, value) -> ir.Constant:
    return ir.Constant(vector, [value] * LANES)


@intrinsic
def pointer(context, array):
    """To the first number of an array."""
    return types.CPointer(array.dtype)(array), lambda c, b, s, args: c.make_array(s.args[0])(c, b, args[0]).data


@intrinsic
def after(context, p, i):
    """The pointer ``i`` numbers further."""
    return p(p, types.uintp), lambda c, b, s, args: b.gep(args[0], [args[1]])


@intrinsic
def number(context, p, i):
    """The number ``i`` places after a pointer."""
    return p.dtype(p, types.uintp), lambda c, b, s, args: b.load(b.gep(args[0], [args[1]]))


@intrinsic
def put(context, p, i, x):
    """Write a number ``i`` places after a pointer."""

    def generate(c, b, signature, args):
        b.store(args[2], b.gep(args[0], [args[1]]))
        return c.get_dummy_value()

    return types.none(p, types.uintp, p.dtype), generate


@intrinsic
def single(context, x, p):
    """A float64 number, in the precision of what a pointer points to."""

    def generate(c, b, signature, args):
        return args[0] if p.dtype == types.float64 else b.fptrunc(args[0], ir.FloatType())

    return p.dtype(types.float64, p), generate


@intrinsic
def load(context, p, i):
    """Lanes from ``i`` numbers after a pointer on."""
    lanes = _KINDS[p.dtype]

    def generate(c, b, signature, args):
        place = b.bitcast(b.gep(args[0], [args[1]]), c.get_value_type(lanes).as_pointer())
        return b.load(place, align=p.dtype.bitwidth // 8)

    return lanes(p, types.uintp), generate


@intrinsic
def store(context, p, i, x):
    """Write lanes from ``i`` numbers after a pointer on."""

    def generate(c, b, signature, args):
        place = b.bitcast(b.gep(args[0], [args[1]]), args[2].type.as_pointer())
        b.store(args[2], place, align=p.dtype.bitwidth // 8)
        return c.get_dummy_value()

    return types.none(p, types.uintp, x), generate


@intrinsic
def splat(context, x):
    """The same number in all lanes."""
    if x not in _KINDS:
        raise TypingError(f"no lanes of {x}")

    def generate(c, b, signature, args):
        kind = c.get_value_type(_KINDS[x])
        undefined, index = ir.Constant(kind, ir.Undefined), ir.IntType(32)
        first = b.insert_element(undefined, args[0], ir.Constant(index, 0))
        return b.shuffle_vector(first, undefined, _all(ir.VectorType(index, LANES), 0))

    return _KINDS[x](x), generate


def _define(symbol, name: str) -> None:
    """An operation of two lanes, as an instruction of LLVM."""

    @intrinsic
    def operation(context, x, y):
        return x(x, y), lambda c, b, s, args: getattr(b, name)(*args, flags=_FLAGS)

    @overload(symbol)
    def choose(x, y):
        return (lambda x, y: operation(x, y)) if isinstance(x, Lanes) and x == y else None


_define(operator.add, "fadd")
_define(operator.sub, "fsub")
_define(operator.mul, "fmul")


@intrinsic
def fma(context, x, y, z):
    """``x y + z``, in one instruction where there is one."""

    def generate(c, b, signature, args):
        kind = args[0].type
        name = f"llvm.fmuladd.v{LANES}f{x.scalar.bitwidth}"
        function = b.module.globals.get(name) or ir.Function(b.module, ir.FunctionType(kind, [kind] * 3), name)
        return b.call(function, args)

    return x(x, y, z), generate


def _choice(comparison: str):
    @intrinsic
    def operation(context, x, y):
        return x(x, y), lambda c, b, s, args: b.select(b.fcmp_ordered(comparison, *args, flags=("nnan",)), *args)

    return operation


smaller, larger = _choice("<"), _choice(">")


@intrinsic
def any_below(context, x, y):
    """Whether ``x < y`` in some lane."""

    def generate(c, b, signature, args):
        flags = b.bitcast(b.fcmp_ordered("<", *args), ir.IntType(LANES))
        return b.icmp_unsigned("!=", flags, ir.Constant(ir.IntType(LANES), 0))

    return types.boolean(x, y), generate


@intrinsic
def _times_power(context, x, power):
    """``x 2^i``, the integer ``i`` being the lowest bits of ``power``."""
    width, fraction = _BITS[x.scalar]

    def generate(c, b, signature, args):
        kind = ir.VectorType(ir.IntType(width), LANES)
        exponent = b.shl(b.bitcast(args[1], kind), _all(kind, fraction))
        return b.bitcast(b.add(b.bitcast(args[0], kind), exponent), args[0].type)

    return x(x, power), generate


@overload(exp2)
def _exp2(x):
    if not isinstance(x, Lanes):
        return None
    if x.scalar == types.float32:

        def single(x):
            x = larger(x, splat(LOW32))
            shifted = x + splat(ROUND32)
            f = x - (shifted - splat(ROUND32))
            p = fma(f, splat(SINGLE[6]), splat(SINGLE[5]))
            p = fma(
                f,
                fma(f, fma(f, fma(f, fma(f, p, splat(SINGLE[4])), splat(SINGLE[3])), splat(SINGLE[2])), splat(SINGLE[1])),
                splat(SINGLE[0]),
            )
            return _times_power(p, shifted)

        return single

    def double(x):
        x = larger(x, splat(LOW64))
        shifted = x + splat(ROUND64)
        f = x - (shifted - splat(ROUND64))
        p = fma(f, splat(DOUBLE[12]), splat(DOUBLE[11]))
        p = fma(f, fma(f, fma(f, fma(f, p, splat(DOUBLE[10])), splat(DOUBLE[9])), splat(DOUBLE[8])), splat(DOUBLE[7]))
        p = fma(f, fma(f, fma(f, fma(f, p, splat(DOUBLE[6])), splat(DOUBLE[5])), splat(DOUBLE[4])), splat(DOUBLE[3]))
        return _times_power(fma(f, fma(f, fma(f, p, splat(DOUBLE[2])), splat(DOUBLE[1])), splat(DOUBLE[0])), shifted)

    return double
