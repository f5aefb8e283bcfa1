"""What stands in the kernel's tables: which rows follow each other in a column of differences, which columns fill the slots of a stage."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int

from theory.engines.windows.cuda.plan import TERMS, Plan
from theory.engines.windows.layout import Layout

NONE = -1  # a row outside, where images are zero


@dataclass(frozen=True)
class Tables:
    """Arguments of the kernel, as its source names them, and what a plan costs by them.

    Attributes:
        x_rows, y_rows: Lists of rows of a noisy and of a training image that follow each other.
        items: Shifts that are made together: list of rows of training images, its first row, list of rows of the noisy image, and
            how many shifts there are.
        maps: For each item, where box sums go in a plane, in bytes, and the position of the box sum of each row.
        first: Number of the first item of each band, and after the last.
        lanes: For each stage and slot, the column of the noisy image and the place in the training images.
        segments: First slot less the first pixel, pixels from and to, place of the image, its column less that of the pixel, its number.
        chunks: Number of the first segment of each stage, and after the last.
    """

    plan: Plan
    x_rows: Int[np.ndarray, "X R"]
    y_rows: Int[np.ndarray, "Y S"]
    items: Int[np.ndarray, "I 4"]
    maps: Int[np.ndarray, "I M"]
    first: Int[np.ndarray, " bands"]
    lanes: Int[np.ndarray, "stages slots 2"]
    segments: Int[np.ndarray, "segments 8"]
    chunks: Int[np.ndarray, " ends"]

    @property
    def bands(self) -> int:
        return len(self.first) - 1

    def arrays(self) -> list[Int[np.ndarray, " n"]]:
        """In the order of the kernel's arguments."""
        names = ("x_rows", "y_rows", "items", "maps", "lanes", "segments", "chunks", "first")
        return [np.ascontiguousarray(getattr(self, name).reshape(-1), np.int32) for name in names]


def tables(layout: Layout, plan: Plan) -> Tables | None:
    """The tables of a plan, which is completed; None where it does not work out."""
    lanes, segments, chunks = _columns(layout, plan)
    lists = _Lists(plan)
    first = [0]
    for top in range(0, layout.shape[0], plan.th):
        (_whole if plan.identity else _packed)(layout, plan, top, lists)
        first.append(len(lists.items))
    x_rows, y_rows, items, maps = lists.arrays()
    bands = [items[a:b] for a, b in zip(first, first[1:], strict=False)]
    static = all(len(set(band[:, 2].tolist())) == 1 for band in bands)
    shortest = min(len(lanes) * (len(band) if plan.shared_rows else 1) for band in bands)
    full = all(first == 0 and last == plan.groups * plan.q for _, first, last, *_ in segments.tolist())
    tasks = max(-(-(b - a) * plan.programs // plan.replicas) for a, b in zip(chunks, chunks[1:], strict=False))
    done = replace(
        plan, static_x=static, segments=len(segments), chunks=len(lanes), full=full, flush=1 << max(0, (TERMS // tasks).bit_length() - 1)
    )
    if plan.slabs != (2 if shortest > 1 else 3):
        return None
    return Tables(done, x_rows, y_rows, items, maps, np.array(first), lanes, segments, np.array(chunks))


class _Lists:
    """Rows and items as they are found; equal lists of rows are kept once."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.x: dict[tuple[int, ...], int] = {}
        self.y: dict[tuple[int, ...], int] = {}
        self.items: list[tuple[int, int, int, int]] = []
        self.maps: list[list[int]] = []

    def add(self, x: list[int], y: list[int], offset: int, programs: int, places: list[list[int]], where: list[list[int]]) -> None:
        """An item."""
        x, y = ([*rows, *[NONE] * (length - len(rows))] for rows, length in ((x, self.plan.x_rows), (y, self.plan.y_rows)))
        number = [known.setdefault(tuple(rows), len(known)) for known, rows in ((self.x, x), (self.y, y))]
        self.items.append((number[1], offset, number[0], programs))
        numbers = [number for row in (*places, *where) for number in row]
        self.maps.append(numbers + [0] * (self.plan.maps - len(numbers)))

    def arrays(self) -> list[np.ndarray]:
        return [np.array(rows, dtype=np.int64) for rows in (list(self.x), list(self.y), self.items, self.maps)]


def _whole(layout: Layout, plan: Plan, top: int, lists: _Lists) -> None:
    """Items of a band where every shift has all rows: two shifts, one row apart, in each."""
    height, begin = layout.shape[0], 0 if plan.wrap_rows else top - plan.kh // 2
    x = [(begin + i) % height for i in range(plan.rows)]
    shifts = layout.rows[:, 0].tolist()
    while shifts:
        pair = shifts[: plan.programs]
        pair = pair if len(pair) == 2 and pair[1] == pair[0] + 1 else pair[:1]
        shifts = shifts[len(pair) :]
        start = 0 if plan.shared_rows else pair[0]
        y = [(begin + start + i) % height for i in range(plan.y_rows)]
        lists.add(x, y, pair[0] - start, len(pair), [], [])


@dataclass(frozen=True)
class _Piece:
    """Two shifts of a band, one row apart, or one: rows that have a partner, and rows of differences that they need.

    Attributes:
        shift: The first of them.
        met: Rows of the noisy image from and to, for each; empty ones for a shift that there is not.
        low, high: Rows from and to, of any.
        inside: Rows of differences from and to; others are zero. None where there are no others.
    """

    shift: int
    met: tuple[range, ...]
    inside: tuple[int, int] | None

    @property
    def low(self) -> int:
        return min(r.start for r in self.met if r)

    @property
    def high(self) -> int:
        return max(r.stop for r in self.met if r)

    @property
    def more(self) -> bool:
        """Whether the last row of differences needs a row of the training image beyond it."""
        return len(self.met) == 2 and bool(self.met[1]) and self.met[1].stop == self.high


def _pieces(layout: Layout, plan: Plan, top: int) -> list[_Piece]:
    radius, bottom = plan.kh // 2, min(top + plan.th, layout.shape[0])
    rows = []
    for shift, first, last, begin, end in layout.rows.tolist():
        met = range(max(first, top), max(min(last, bottom), max(first, top)))
        cut = first - radius < begin or last + radius > end
        rows.append((shift, met, (begin, end) if cut else None))
    pieces = []
    while rows:
        (shift, met, inside), *rows = rows
        second = range(0)
        if plan.programs == 2 and rows and rows[0][0] == shift + 1 and inside is None is rows[0][2]:
            (_, second, _), *rows = rows
        if met or second:
            pieces.append(_Piece(shift, (met, second)[: plan.programs], inside))
    return pieces


def _packed(layout: Layout, plan: Plan, top: int, lists: _Lists) -> None:
    """Items of a band: columns of differences filled with pieces, the longest first, so that no row has two partners in one plane."""
    radius = plan.kh // 2
    items: list[list[_Piece]] = []
    for piece in sorted(_pieces(layout, plan, top), key=lambda p: (p.low - p.high, p.shift)):
        fitting = (item for item in items if _fits(item, piece, plan))
        item = next(fitting, None)
        if item is None:
            items.append([piece])
        else:
            item.append(piece)
    outside = layout.window[0] // 2
    for item in items:
        x, y = [], []
        size = 4 if plan.real == "float" else 8
        places = [[plan.th * plan.pitch * size] * (-(-plan.positions // 4) * 4) for _ in range(plan.programs)]
        where = [[NONE] * plan.th for _ in range(plan.programs)]
        for piece in item:
            start = len(x)
            rows = range(piece.low - radius, piece.high + radius)
            begin, end = piece.inside or (rows.start, rows.stop + 1)
            x += [int(layout.query_rows[row + outside]) if begin <= row < end else NONE for row in rows] + [NONE] * piece.more
            y += [row + piece.shift if begin <= row < end else NONE for row in range(rows.start, rows.stop + piece.more)]
            for program, met in enumerate(piece.met):
                for row in met:
                    position = start + row - piece.low
                    places[program][position] = (row - top) * plan.pitch * size
                    where[program][row - top] = position
        height = layout.shape[0]
        lists.add(x[: plan.rows], [row if 0 <= row < height else NONE for row in y], 0, plan.programs, places, where)


def _fits(item: list[_Piece], piece: _Piece, plan: Plan) -> bool:
    """Whether a piece goes into a column with others."""
    length = sum(p.high - p.low + plan.kh - 1 + p.more for p in (*item, piece)) - piece.more
    apart = all(not set(a) & set(b) for other in item for a, b in zip(other.met, piece.met, strict=True))
    return length <= plan.rows and apart


def _columns(layout: Layout, plan: Plan) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Columns of differences in the slots of each stage, and the segments of pixels that these serve."""
    nothing = plan.width, plan.pad + plan.width  # columns of zeros
    empty = nothing[0] * plan.tall, nothing[1] * plan.tall
    stages: list[list[tuple[int, int]]] = []
    segments, chunks = [], [0]
    radius, outside = plan.kw // 2, layout.window[1] // 2
    used = plan.slots
    for shift, first, last, begin, end, g in _ordered(layout, plan):
        base = used if plan.wrap_cols else -(-(used - first) // 4) * 4
        taken = plan.width if plan.wrap_cols else last - first + 2 * radius
        if base + first + taken > plan.slots:
            if stages:
                chunks.append(len(segments))
            stages.append([empty] * plan.slots)
            base, used = -(first // 4) * 4, 0
        for i in range(taken):
            column = first - radius + i
            if plan.wrap_any:
                pair = column % plan.width, (column + shift) % plan.width
            elif begin <= column < end:
                pair = int(layout.query_cols[column + outside]), plan.pad + column + shift
                pair = pair if pair[0] >= 0 else (plan.width, pair[1])
            else:
                pair = nothing
            stages[-1][base + first + i] = pair[0] * plan.tall, pair[1] * plan.tall + g * plan.y_image
        used = base + first + taken
        stop = plan.groups * plan.q if last == plan.width else last
        segments.append((base, first, stop, g * plan.y_image, shift % plan.width if plan.wrap_any else shift, g, 0, 0))
    chunks.append(len(segments))
    return np.array(stages), np.array(segments), chunks


def _ordered(layout: Layout, plan: Plan) -> list[tuple[int, ...]]:
    """Shifts along rows for each image, those beside each other that fill a row of pixels together; none wider than the slots."""
    cols = [row for row in layout.cols.tolist() if row[1] < row[2]]
    if not plan.wrap_any:
        width = max(last - first for _, first, last, *_ in cols) + 1
        cols.sort(key=lambda row: (row[0] % width, row[0]))
    most = max(plan.q, (plan.slots - plan.kw - 3) // plan.q * plan.q)
    out = []
    for shift, first, last, begin, end in cols:
        start = first
        while start < last:
            stop = last if plan.wrap_cols else min(last, (start + most) // plan.q * plan.q)
            out += [(shift, start, stop, begin, end, g) for g in range(plan.g)]
            start = stop
    return out
