"""Curves and bars as SVG, and images as PNG, for a page that needs nothing else."""

import base64
import html
import io
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 12, 40
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
FEW = 5  # ticks within the range, from which on no others are wanted


class Curve(NamedTuple):
    """A line: its name, colour, values (None where there is none), and the band around it, if any."""

    name: str
    colour: str
    values: Sequence[float | None]
    low: Sequence[float | None] | None = None
    high: Sequence[float | None] | None = None
    dashed: bool = False


def curves(
    x: Sequence[float], lines: Sequence[Curve], *, label: str, top: float | None = 1.0, bottom: float = 0.0, whole: bool = False
) -> str:
    """Lines over a logarithmic axis of the noise-to-signal ratio; ``top`` of the vertical axis, the largest value if None;
    ``whole`` for values that are whole numbers."""
    known = [v for line in lines for v in line.values if v is not None]
    top = max(known, default=1.0) * 1.05 if top is None else top
    first, last = math.log(min(x)), math.log(max(x))
    across = lambda v: LEFT + (math.log(v) - first) / max(last - first, 1e-9) * (WIDTH - LEFT - RIGHT)  # noqa: E731
    up = lambda v: TOP + (top - min(max(v, bottom), top)) / (top - bottom) * (HEIGHT - TOP - BOTTOM)  # noqa: E731
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(label)}">']
    step = max(_step(top - bottom), 1.0 if whole else 0.0)
    for n in range(int((top - bottom) / step + 1e-9) + 1):
        v = bottom + n * step
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(v):.1f}" y2="{up(v):.1f}"/>')
        parts.append(f'<text class="y" x="{LEFT - 6}" y="{up(v) + 4:.1f}">{v:g}</text>')
    inside = [t for t in TICKS if min(x) * 0.999 <= t <= max(x) * 1.001]
    ticks = inside if len(inside) >= 2 else x
    parts += [f'<text class="x" x="{across(t):.1f}" y="{HEIGHT - BOTTOM + 16}">{t:.3g}</text>' for t in ticks]
    parts.append(f'<text class="x" x="{(WIDTH + LEFT) / 2}" y="{HEIGHT - 4}">noise-to-signal ratio σ/α</text>')
    parts += [_band(line, x, across, up) for line in lines if line.low and line.high]
    for line in lines:
        there = [(a, v) for a, v in zip(x, line.values, strict=True) if v is not None]
        points = " ".join(f"{across(a):.1f},{up(v):.1f}" for a, v in there)
        dash = ' stroke-dasharray="5 4"' if line.dashed else ""
        parts.append(f'<polyline points="{points}" fill="none" stroke="{line.colour}" stroke-width="2"{dash}/>')
        parts += [f'<circle cx="{across(a):.1f}" cy="{up(v):.1f}" r="2.6" fill="{line.colour}"/>' for a, v in there]
    legend = "".join(f'<span><i style="background:{line.colour}"></i>{html.escape(line.name)}</span>' for line in lines)
    return "".join(parts) + f'</svg><p class="legend">{legend}</p>'


def _band(line: Curve, x: Sequence[float], across: Callable[[float], float], up: Callable[[float], float]) -> str:
    """The area between the lower and the upper end of a line's intervals."""
    there = [(a, lo, hi) for a, lo, hi in zip(x, line.low, line.high, strict=True) if lo is not None and hi is not None]
    edge = [(a, hi) for a, _, hi in there] + [(a, lo) for a, lo, _ in reversed(there)]
    points = " ".join(f"{across(a):.1f},{up(v):.1f}" for a, v in edge)
    return f'<polygon points="{points}" fill="{line.colour}" opacity=".13"/>'


def _step(span: float) -> float:
    """A round distance of about five ticks."""
    unit = 10 ** math.floor(math.log10(max(span, 1e-9)))
    return next(unit * m for m in (0.1, 0.2, 0.5, 1, 2) if span / (unit * m) <= FEW + 1)


def bar(value: float, low: float, high: float, colour: str) -> str:
    """A bar of a share, with its interval."""
    place = lambda v: f"{100 * min(max(v, 0.0), 1.0):.2f}%"  # noqa: E731
    width = f"{100 * (min(max(high, 0.0), 1.0) - min(max(low, 0.0), 1.0)):.2f}%"
    return (
        f'<div class="bar"><b style="width:{place(value)};background:{colour}"></b><em style="left:{place(low)};width:{width}"></em></div>'
    )


def png(pixels: np.ndarray, scale: int, title: str) -> str:
    """An image ``(H, W)`` or ``(H, W, 3)`` of uint8, every pixel ``scale`` wide, as an element of the page."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "png", optimize=True)
    height, width = pixels.shape[:2]
    data = base64.b64encode(out.getvalue()).decode()
    size = f'width="{width * scale}" height="{height * scale}"'
    return f'<img {size} alt="{html.escape(title)}" title="{html.escape(title)}" src="data:image/png;base64,{data}">'


def shown(image: Tensor) -> np.ndarray:
    """Pixels ``(C, H, W)`` in [-1, 1] as uint8; what goes beyond is cut off, in the picture alone."""
    array = ((image.double().clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    return array[..., 0] if array.shape[-1] == 1 else array if array.shape[-1] == 3 else array[..., 0]


def heat(values: Tensor, largest: float, logarithmic: float = 0.0) -> np.ndarray:
    """A map ``(H, W)`` of numbers from 0 (white) to ``largest`` (dark blue); with ``logarithmic``, that many powers of ten."""
    share = (values.double() / max(largest, 1e-30)).clamp(0, 1)
    if logarithmic:
        share = 1 + (share.clamp(min=10**-logarithmic).log10() / logarithmic)
    stops = np.array([[255, 255, 255], [198, 219, 239], [107, 174, 214], [33, 113, 181], [8, 40, 96]], dtype=float)
    place = share.numpy() * (len(stops) - 1)
    before = np.clip(place.astype(int), 0, len(stops) - 2)
    rest = (place - before)[..., None]
    return (stops[before] * (1 - rest) + stops[before + 1] * rest).round().astype(np.uint8)
