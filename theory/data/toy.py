r"""The toy data of arXiv 2506.17324: a rule that only non-local models can obey.

Four keys are drawn uniformly, with replacement, from red, green, blue and yellow; a bijection
``f`` of the four colours is drawn uniformly; the values are ``f(key)``. A picture shows four pairs,
value below key. It is *consistent* when equal keys have equal values and different keys different
values: something no single pair can tell.

Of 6144 equally likely draws, 5056 images are distinct: 16 show one key colour (weight 6/6144: the
bijections that agree on it), 1008 two (weight 2) and 4032 three or four (weight 1). Eight random
colours are consistent with probability 5056 / 4^8 = 7.715%; ones that merely never contradict
themselves (equal keys, equal values) with 25.513%.

Given a bijection the four pairs are independent, so the posterior mean of a noisy image is a sum
over 24 bijections and 16 pairs, without the 5056 images (`Toy.posterior_mean`).
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations, product

import torch
from einops import rearrange, repeat
from torch import Tensor

from theory.data.imageset import ImageSet
from theory.data.pixels import SIGNED
from theory.errors import InputError, choices
from theory.types import Images, Int

COLOURS = torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, -1]])  # red, green, blue, yellow
BACKGROUND = -1.0
BIJECTIONS = torch.tensor(list(permutations(range(4))))
NOT_A_COLOUR = 0.5  # distance in colour space beyond which a cell is not a colour; colours are 2 apart

# Where the four keys stand, in cells; each value stands below its key.
LAYOUTS = {
    "grid": ((6, 4), ((0, 0), (0, 3), (4, 0), (4, 3)), (5, 5)),
    "strip": ((2, 4), ((0, 0), (0, 1), (0, 2), (0, 3)), (3, 1)),
}


def toy(layout: str = "grid", cell: int = 1) -> ImageSet:
    """All distinct images of the toy data with their exact weights.

    Args:
        layout: ``grid`` (pairs in a 2 x 2 grid with gaps of 2, 6 x 4 cells) or ``strip`` (pairs side
            by side, 2 x 4 cells).
        cell: Pixels along the side of a cell.

    Returns:
        5056 images; ``rule`` is a `Toy`.
    """
    if layout not in LAYOUTS:
        raise InputError(f"toy layout {layout!r}", choices(LAYOUTS), "choose one of these")
    if cell < 1:
        raise InputError(f"toy cell {cell}", "at least 1 pixel", "choose a positive cell size")
    rule = Toy(layout, cell)
    draws = torch.tensor([(*keys, *(f[k] for k in keys)) for keys in product(range(4), repeat=4) for f in permutations(range(4))])
    cells, counts = torch.unique(draws, dim=0, return_counts=True)
    name = f"toy:layout={layout}" + (f",cell={cell}" if cell > 1 else "")
    kh, kw = LAYOUTS[layout][2]
    return ImageSet(rule.render(cells), name, counts.double(), patch_size=(_scaled(kh, cell), _scaled(kw, cell)), rule=rule, range=SIGNED)


def _scaled(size: int, cell: int) -> int:
    """The smallest odd window that reaches as far as ``size`` cells from any pixel of a cell."""
    return size if size == 1 else (size - 1) * cell + 1


@dataclass(frozen=True)
class Toy:
    """Layout, decoding and rule of the toy data. Cells are numbered: four keys, then their values."""

    layout: str = "grid"
    cell: int = 1
    baseline: float = 5056 / 4**8

    @property
    def _cells(self) -> list[tuple[int, int]]:
        keys = LAYOUTS[self.layout][1]
        return [*keys, *((y + 1, x) for y, x in keys)]

    def render(self, cells: Int[Tensor, "B 8"]) -> Images:
        """Images of given colours, with shape ``(B, 3, H, W)``, in [-1, 1]."""
        height, width = LAYOUTS[self.layout][0]
        image = torch.full((len(cells), 3, height, width), BACKGROUND)
        for i, (y, x) in enumerate(self._cells):
            image[:, :, y, x] = COLOURS[cells[:, i]]
        return repeat(image, "b c y x -> b c (y i) (x j)", i=self.cell, j=self.cell)

    def _means(self, images: Images) -> Tensor:
        """Mean colour of each cell, with shape ``(B, 8, 3)``."""
        ys, xs = _constants(self.layout, images.dtype, images.device)[2:]
        small = images
        if self.cell > 1:
            small = rearrange(images, "b c (y i) (x j) -> b c y x (i j)", i=self.cell, j=self.cell).mean(-1)
        return small[:, :, ys, xs].mT

    def decode(self, images: Images) -> Int[Tensor, "B 8"]:
        """Nearest colour of each cell (0 red, 1 green, 2 blue, 3 yellow; -1: not a colour)."""
        distance = (self._means(images)[:, :, None] - COLOURS.to(images)).norm(dim=-1)
        nearest, colour = distance.min(-1)
        return torch.where(nearest <= NOT_A_COLOUR, colour, -1)

    def consistent(self, images: Images) -> Tensor:
        """Whether every cell is a colour, equal keys have equal values and different keys different ones."""
        cells = self.decode(images)
        return (cells >= 0).all(1) & obeys(cells)

    def posterior_mean(self, x_t: Images, alpha_t: Tensor, sigma_t: Tensor) -> Images:
        """Exact ``E[x_0 | x_t]`` under the toy distribution, in O(24 * 16) per image.

        Args:
            x_t: Noisy images with shape ``(B, 3, H, W)``.
            alpha_t, sigma_t: Coefficients with shape ``()`` or ``(B,)``.
        """
        alpha, sigma = (torch.as_tensor(c).to(x_t).reshape(-1, 1, 1) for c in (alpha_t, sigma_t))
        colours, bijections, ys, xs = _constants(self.layout, x_t.dtype, x_t.device)
        # Only the mean of a cell's pixels matters, and its noise is sigma / cell.
        distance = (self._means(x_t)[:, :, None] - alpha[..., None] * colours).square().sum(-1)
        fit = (-distance * self.cell**2 / (2 * sigma**2)).permute(2, 0, 1)  # (4, B, 8): log-likelihood of a cell's colour
        keys, values = fit[..., :4].contiguous(), fit[..., 4:].contiguous()
        pairs = keys + values.index_select(0, bijections.flatten()).unflatten(0, bijections.shape)  # (24, 4 keys, B, 4 pairs)
        largest = pairs.amax(1, keepdim=True)
        pairs = (pairs - largest).exp()
        total = pairs.sum(1, keepdim=True)
        weights = torch.softmax((total.log() + largest).sum(-1), 0)  # (24, 1, B): of the bijections
        pairs = pairs * (weights[..., None] / total)
        mean_keys = torch.einsum("kbp,kc->bcp", pairs.sum(0), colours)
        mean_values = torch.einsum("fkbp,fkc->bcp", pairs, colours[bijections])
        mean = x_t.new_full((len(x_t), 3, *LAYOUTS[self.layout][0]), BACKGROUND)
        mean[:, :, ys, xs] = torch.cat([mean_keys, mean_values], -1)
        return mean if self.cell == 1 else repeat(mean, "b c y x -> b c (y i) (x j)", i=self.cell, j=self.cell)


@lru_cache
def _constants(layout: str, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Colours, bijections, rows and columns of the cells on a device, brought there once: a step that is captured can't wait for them."""
    ys, xs = (torch.tensor(side, device=device) for side in zip(*Toy(layout)._cells, strict=True))
    return COLOURS.to(device, dtype), BIJECTIONS.to(device), ys, xs


def obeys(cells: Int[Tensor, "B 8"]) -> Tensor:
    """The rule on colours alone: for every two pairs, keys are equal exactly when values are."""
    keys, values = cells[:, :4], cells[:, 4:]
    return ((keys[:, :, None] == keys[:, None]) == (values[:, :, None] == values[:, None])).flatten(1).all(1)
