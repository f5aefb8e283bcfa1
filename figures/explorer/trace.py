"""What the page shows of some samples: every model's way from the same noise, and behind each pixel its training patches."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from figures.explorer.attention import split
from figures.explorer.models import Shown
from theory.candidates import Candidates, candidates
from theory.sampling import DDIM
from theory.stationarity.solution import Split
from theory.types import Images

ATTENDED = 24  # pixels of an attention map that are told, heaviest first


@dataclass(frozen=True)
class Plan:
    """What is computed of each sample.

    Attributes:
        steps: Steps of DDIM from t = 1.
        levels: Noise levels that are told: so many of the states before the last, equally far apart, the first and the last among them.
        top: Patches of each pixel.
    """

    steps: int
    levels: int
    top: int

    def told(self) -> list[int]:
        """Numbers of the states that are told."""
        return torch.linspace(0, self.steps - 1, self.levels).round().long().unique().tolist()


@dataclass(frozen=True)
class Trace:
    """Some samples of all models.

    Attributes:
        times: Of the levels, falling.
        ratios: ``sigma_t / alpha_t`` there.
        arrays: By name ``<number of the model>.<what>``, each with its code for `pack`; images are numbered as `used` lists them.
        used: Numbers of the training images that occur.
        patches: For each model, height and width of its patches at each level, or None where it sees the whole image.
        finals: The finished samples of each model, ``(S, C, H, W)``.
    """

    times: list[float]
    ratios: list[float]
    arrays: dict[str, tuple[str, Tensor]]
    used: list[int]
    patches: list[list | None]
    finals: list[Images]


def trace(
    shown: list[Shown], noise: Images, plan: Plan, *, times: Tensor | None = None, also: float | None = None, tick: Callable = lambda: None
) -> Trace:
    """Follow all models from the same noisy images.

    Args:
        shown: The models.
        noise: Where they start, with shape ``(S, C, H, W)``.
        plan: What is computed.
        times: Times of the sampler instead of equal steps from 1 to 0; those told are chosen among them.
        also: One of those times that is told in any case.
        tick: Called after every piece of the work: `pieces` times.
    """
    whole = torch.linspace(1, 0, plan.steps + 1, dtype=torch.float64) if times is None else times
    chosen = Plan(len(whole) - 1, min(plan.levels, len(whole) - 1), plan.top).told()
    if also is not None:
        chosen = sorted({*chosen, int((whole[:-1] - also).abs().argmin())})
    levels = [float(whole[i]) for i in chosen]
    arrays, patches, finals = {}, [], []
    for number, model in enumerate(shown):
        run = DDIM(model.denoiser, times=whole)(noise, trajectory=True)
        tick()
        found = []
        for i, t in zip(chosen, levels, strict=True):
            found.append(_level(model, run.trajectory[i], t, plan.top))
            tick()
        arrays |= {f"{number}.{name}": x for name, x in _joined(found).items()}
        patches.append([list(model.machine.patch_size(t)) for t in levels] if model.machine.per_pixel else None)
        finals.append(run.images.cpu())
    used = torch.cat([x.flatten() for name, (_, x) in arrays.items() if name.endswith((".image", ".mosaic"))]).unique()
    for name, (code, x) in arrays.items():
        if name.endswith((".image", ".mosaic")):
            arrays[name] = code, torch.searchsorted(used, x)
    alpha, sigma = shown[0].denoiser.schedule(torch.tensor(levels, dtype=torch.float64))
    return Trace(levels, (sigma / alpha).tolist(), arrays, used.tolist(), patches, finals)


def pieces(models: int, levels: int) -> int:
    """How often `trace` says that a piece is done."""
    return models * (levels + 1)


def _level(model: Shown, x_t: Images, t: float, top: int) -> dict[str, tuple[str, Tensor]]:
    """One model at one level: everything with a first axis of samples."""
    parts = split(model.denoiser, x_t, t)
    mean = parts.local + parts.context if parts else model.denoiser.denoise(x_t, t)
    told = {"x": ("fixed", x_t), "mean": ("fixed", mean), **_patches(model, candidates(model.machine, x_t, t, top), x_t.shape[-1])}
    return told | (_attention(parts) if parts else {})


def _patches(model: Shown, found: Candidates, width: int) -> dict[str, tuple[str, Tensor]]:
    """Candidates with places as one number, row by row; of whole images those of the first pixel, whose place is the shift."""
    if not model.machine.per_pixel:
        found = Candidates(*(x[:, :1, :1] for x in found))
    place, mosaic = (x[..., 0] * width + x[..., 1] for x in (found.pixel, found.place))
    # Where there are fewer patches than asked for, the weight is 0.
    return {
        "image": ("plain", found.image.clamp(min=0)),
        "place": ("plain", place),
        "weight": ("log", found.weight.clamp(max=1)),
        "count": ("plain", found.count),
        "effective": ("log", 1 / found.effective.clamp(min=1)),
        "mosaic": ("plain", found.mosaic),
        "from": ("plain", mosaic),
    }


def _attention(parts: Split) -> dict[str, tuple[str, Tensor]]:
    weights, places = parts.attention.sort(dim=-1, descending=True, stable=True)
    return {
        "local": ("fixed", parts.local),
        "attended": ("plain", places[..., :ATTENDED]),
        "share": ("log", weights[..., :ATTENDED].clamp(0, 1)),
    }


def _joined(levels: list[dict[str, tuple[str, Tensor]]]) -> dict[str, tuple[str, Tensor]]:
    """Levels as the second axis."""
    return {name: (code, torch.stack([level[name][1] for level in levels], 1).cpu()) for name, (code, _) in levels[0].items()}
