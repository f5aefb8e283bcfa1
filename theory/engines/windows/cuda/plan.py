"""How a sum over windows is cut for a card: the sizes that its kernel is compiled for."""

import itertools
import math
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:  # importing it here would import all engines
    from theory.engines.windows.layout import Layout
    from theory.patches import Size

LEFT, RIGHT = 8, 12  # slots of a plane before the first and after the last, which are read and not used
TERMS = 2048  # weights that a thread adds up in float32, about
IMAGES = (1, 2, 4, 8, 16)  # whose planes are made together, where they are small
ROWS = 32  # of a noisy image that a block takes, at most
COLUMN = 98  # differences that a thread has room for, where one noisy image is summed
REGISTERS = 65_536  # of a multiprocessor
OTHERS = 30, 60  # registers that a thread needs besides differences, and besides sums
TOGETHER = 2  # noisy images that a block takes, at most
BARRIER = 250.0  # instructions of a warp scheduler that a stage costs besides
VALUES = 4  # channels that are averaged in one pass over the training images


@dataclass(frozen=True)
class Limits:
    """What a card offers a block.

    Attributes:
        shared: Bytes of shared memory.
        processors: How many blocks run at a time.
        makers, summers: Warps of each kind, at most.
    """

    shared: int
    processors: int
    makers: int = 8
    summers: int = 8


@dataclass(frozen=True)
class Plan:
    """Sizes of the kernel, under the names it has for them, and what follows from them.

    Attributes:
        real: ``float`` or ``double``.
        channels: Of an image.
        first_value, values: Channels that are averaged.
        width: Of an image.
        th: Rows of a noisy image that a block takes.
        rows: Pixels in a column of differences.
        kh, kw: Size of the window.
        wrap_any: Whether windows and shifts of both images wrap around.
        wrap_rows, wrap_cols: Whether columns (rows) of differences are whole and closed.
        identity: Whether the boxes of a column are those of the rows of the band, in their order.
        shared_rows: Whether all rows of a training image that any shift needs are held at once.
        static_x: Whether all shifts see the same rows of the noisy image.
        programs: Shifts that a thread follows down its column.
        q: Pixels that a thread sums.
        groups: Threads for a row.
        makers, summers: Warps.
        noisy: Noisy images that share what is read of the training images.
        tall: Rows of an image that lie side by side, to be read at once.
        g: Training images at a time.
        y_rows: Rows of a training image held at a time.
        slabs: How many times these are held: what is used, and what is being read.
        segments: Rows of the table of segments.
        chunks: Stages of an item.
        full: Whether every segment is for all pixels of a row.
        flush: Stages between additions to float64 sums.
    """

    real: str
    channels: int
    first_value: int
    values: int
    width: int
    th: int
    rows: int
    kh: int
    kw: int
    wrap_any: bool
    wrap_rows: bool
    wrap_cols: bool
    identity: bool
    shared_rows: bool
    static_x: bool
    programs: int
    q: int
    groups: int
    makers: int
    summers: int
    noisy: int
    tall: int
    g: int
    y_rows: int
    slabs: int
    segments: int = 1
    chunks: int = 1
    full: bool = False
    flush: int = 1

    @property
    def slots(self) -> int:
        return 32 * self.makers

    @property
    def threads(self) -> int:
        return 32 * (self.makers + self.summers)

    @property
    def positions(self) -> int:
        """Box sums of a column."""
        return self.rows if self.wrap_rows else self.rows - self.kh + 1

    @property
    def units(self) -> int:
        """Threads that sum all pixels of the band once."""
        return self.groups * self.th

    @property
    def replicas(self) -> int:
        return 32 * self.summers // self.units

    @property
    def fields(self) -> int:
        return 3 + self.values

    @property
    def pitch(self) -> int:
        return LEFT + self.slots + RIGHT

    @property
    def pad(self) -> int:
        """Columns before the first of a row of a training image."""
        return 0 if self.wrap_any else 8

    @property
    def x_pitch(self) -> int:
        return self.width + 1  # and a column of zeros

    @property
    def y_pitch(self) -> int:
        """Odd, so that threads that read one column each find all in different banks."""
        return (self.pad + self.width + 8) | 1

    @property
    def x_rows(self) -> int:
        """Rows of a noisy image held at a time."""
        return _multiple(self.rows, self.tall)

    @property
    def y_image(self) -> int:
        return self.channels * self.y_rows * self.y_pitch

    @property
    def maps(self) -> int:
        return 0 if self.identity else _fours(self.programs * (_fours(self.positions) + self.th))

    @property
    def shared(self) -> int:
        """Bytes of shared memory."""
        planes = 2 * self.noisy * self.programs * (self.th + (not self.identity)) * self.pitch
        x = (1 if self.static_x else self.slabs) * self.noisy * self.channels * self.x_rows * self.x_pitch
        numbers = planes + x + self.slabs * self.g * (self.y_image + 1)
        return (4 if self.real == "float" else 8) * numbers + 4 * (self.slabs * self.maps + 8 * self.segments)

    @property
    def down(self) -> int:
        """Box sums of a column that are made together."""
        return _power(min(self.kh, self.positions, 16))

    @property
    def along(self) -> int:
        return _power(min(self.kw, self.q))

    @cached_property
    def macros(self) -> dict[str, str]:
        """Names and values for the compiler."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        derived = {n: getattr(self, n) for n in ("x_rows", "pitch", "pad", "x_pitch", "y_pitch", "down", "along")}
        named = {**own, **derived}
        return {name.upper(): str(int(v) if not isinstance(v, str) else v) for name, v in named.items()}

    @property
    def made(self) -> float:
        """Instructions of a warp that makes a stage: reading both images, two for each channel of a difference, boxes and writing."""
        reads, boxes = (self.noisy + 1) * self.channels / self.tall, _adds(self.kh, self.down) + (1 if self.identity else 2.25)
        return self.rows * (reads + 2 * self.channels * self.programs * self.noisy) + self.noisy * self.programs * self.positions * boxes

    @property
    def summed(self) -> float:
        """Instructions of a warp that sums one segment: reading, boxes, exponentials and values of Q pixels for each thread."""
        each = _adds(self.kw, self.along) + 5 + self.values + (0 if self.wrap_any else 0.3)
        return self.noisy * ((self.q + self.kw + 2) // 4 + self.q * each) + self.q * self.values + 16

    @property
    def read(self) -> float:
        """Bytes of shared memory that a pair of pixels takes, written ones included."""
        made = (self.noisy + 1) * self.channels / (self.programs * self.noisy) + 1
        return (4 if self.real == "float" else 8) * (made + 4 * ((self.q + self.kw + 2) // 4) / self.q + self.values / self.noisy)


def _fours(n: int) -> int:
    return _multiple(n, 4)


def _multiple(n: int, of: int) -> int:
    return -(-n // of) * of


def _power(n: int) -> int:
    return 1 << (n.bit_length() - 1)


def _adds(k: int, size: int) -> float:
    """Additions for a box sum, where ``size`` are made together."""
    return (k - size + max(0, size - 1) + max(0, size - 2) + size - 1) / size


def reach(layout: "Layout") -> "Size":
    """Size of the window as the kernel sums it: what lies beyond the whole image on both sides is zero."""
    return layout.window if layout.wrapped else tuple(min(k, 2 * n - 1) for k, n in zip(layout.window, layout.shape, strict=True))


def plans(layout: "Layout", channels: int, dtype: torch.dtype, limits: Limits, first_value: int = 0, most: int = 1) -> list[Plan]:
    """Plans for at most so many noisy images of a block that fit shared memory and registers, what is expected to be the fastest first;
    `tables` fills in the rest of their numbers."""
    found = [plan for noisy in range(1, most + 1) for plan in _plans(layout, channels, dtype, limits, first_value, noisy)]
    return sorted(found, key=lambda plan: _expected(plan, layout))


def _plans(layout: "Layout", channels: int, dtype: torch.dtype, limits: Limits, first_value: int, noisy: int) -> list[Plan]:
    height, single = layout.shape[0], dtype == torch.float32
    found = []
    for th in sorted({-(-height // bands) for bands in range(-(-height // ROWS), height + 1)}, reverse=True):
        for programs in (2, 1) if single and _consecutive(layout) and channels <= 6 else (1,):
            for sizes in itertools.product((True, False) if layout.wrapped else (False,), _warps(limits, single), (2, 3), IMAGES):
                plan = _plan(layout, channels, single, first_value, noisy, th, programs, *sizes)
                if _fits(plan, layout, limits):
                    found.append(plan)
        if found and th < found[0].th // 2:
            break
    return found


def _plan(
    layout: "Layout",
    channels: int,
    single: bool,
    first_value: int,
    noisy: int,
    th: int,
    programs: int,
    shared_rows: bool,
    warps: tuple[int, int],
    slabs: int,
    g: int,
) -> Plan:
    (height, width), (kh, kw), wrapped, q = layout.shape, reach(layout), layout.wrapped, 8 if single else 4
    rows, tall = height if wrapped and th == height else th + kh - wrapped, programs if single else 1
    return Plan(
        real="float" if single else "double", channels=channels, first_value=first_value, values=min(VALUES, channels - first_value),
        width=width, th=th, rows=rows, kh=kh, kw=kw, wrap_any=wrapped, wrap_rows=wrapped and th == height,
        wrap_cols=wrapped and width % 4 == 0, identity=wrapped, shared_rows=shared_rows, static_x=wrapped, programs=programs, q=q,
        groups=-(-width // q), makers=warps[0], summers=warps[1], noisy=noisy, tall=tall, g=g,
        y_rows=_multiple(rows + programs - 1 + (int(layout.rows[:, 0].max()) if shared_rows else 0), tall), slabs=slabs,
    )  # fmt: skip


def _fits(plan: Plan, layout: "Layout", limits: Limits) -> bool:
    registers = plan.rows * plan.programs <= COLUMN if plan.noisy == 1 else _held(plan) <= min(255, REGISTERS // plan.threads // 8 * 8)
    wide = plan.kw + 4 + plan.q <= plan.slots and (not plan.wrap_cols or plan.width <= plan.slots)
    filled = plan.g == 1 or plan.g * _columns(plan, layout) <= plan.slots
    return registers and wide and filled and plan.replicas > 0 and plan.shared + 32 * plan.g * (len(layout.cols) + 8) <= limits.shared


def _held(plan: Plan) -> int:
    """Registers of a thread, about."""
    made, summed = plan.rows * plan.programs * plan.noisy, plan.q * plan.fields * plan.noisy
    return max(n * (1 if plan.real == "float" else 2) + others for n, others in zip((made, summed), OTHERS, strict=True))


def _columns(plan: Plan, layout: "Layout") -> float:
    """Columns of differences of a training image."""
    return float((layout.cols[:, 2] - layout.cols[:, 1] + (0 if plan.wrap_cols else plan.kw + 1)).sum())


def _consecutive(layout: "Layout") -> bool:
    return bool((np.diff(layout.rows[:, 0]) == 1).any())


def _expected(plan: Plan, layout: "Layout") -> float:
    """Instructions of a warp scheduler for each row and stage, about; for comparison."""
    columns, stages = plan.g * _columns(plan, layout), math.ceil(plan.g * _columns(plan, layout) / plan.slots)
    met = plan.g * float((layout.cols[:, 2] - layout.cols[:, 1]).sum()) / plan.width / stages * plan.programs  # whole rows that are summed
    tasks = met * math.ceil(plan.units / 32) * plan.summed
    issued = (plan.makers * plan.made + tasks) / 4
    longest = 1.6 * max(plan.made, met / plan.replicas * plan.summed)
    copied = plan.g * plan.y_image / 32 * 6 / 4 / stages / (len(layout.rows) / plan.programs if plan.shared_rows else 1)
    bands = math.ceil(layout.shape[0] / plan.th)
    lanes = stages * plan.slots / columns
    return (max(issued, longest) + BARRIER + copied) * stages * bands / plan.programs / plan.g / plan.noisy + 1e-9 * lanes


def _warps(limits: Limits, single: bool) -> list[tuple[int, int]]:
    """Warps that make and that sum: of float64, half as many, which have twice the registers."""
    makers, summers = (limits.makers, limits.summers) if single else (max(1, limits.makers // 2), max(1, limits.summers // 2))
    return list(itertools.product(range(makers, 0, -1), sorted({summers, max(1, summers // 2)}, reverse=True)))
