"""How much of everything, and how long that takes: measured on a few images before it starts."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from theory.data.imageset import ImageSet
from theory.denoiser import Denoiser
from theory.errors import InputError
from theory.metrics import noisy_images

FEWEST = 12  # samples of which an interval says anything
SHARE = 0.9  # of a budget that is planned: the rest is for the page, and for estimates that are short
SLOW = 300.0  # seconds for one image from which on it is not asked again; compiling takes less


@dataclass(frozen=True)
class Effort:
    """How much.

    Attributes:
        samples, steps: Samples of each model, and their steps.
        levels, draws: Noise levels, and noisy images at each.
        calibration: Noisy images at each level, from which patch sizes are chosen.
    """

    samples: int = 200
    steps: int = 20
    levels: int = 8
    draws: int = 100
    calibration: int = 24

    def __post_init__(self) -> None:
        for name, least in (("samples", 2), ("steps", 1), ("levels", 1), ("draws", 2), ("calibration", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} {getattr(self, name)}", f"at least {least}", "correct the option")

    def evaluations(self) -> int:
        """Images that each model is asked about."""
        return self.samples * self.steps + self.levels * self.draws


@dataclass(frozen=True)
class Cost:
    """Seconds for one image.

    Attributes:
        models: Of each model.
        calibrating: Of choosing among patch sizes, both borders together.
    """

    models: Mapping[str, float]
    calibrating: float

    def seconds(self, effort: Effort) -> dict[str, float]:
        """What each part takes."""
        parts = {"calibration": effort.levels * effort.calibration * self.calibrating}
        return parts | {name: effort.evaluations() * each for name, each in self.models.items()}

    def total(self, effort: Effort) -> float:
        """All parts together."""
        return sum(self.seconds(effort).values())


def seconds_an_image(ask: Callable[[torch.Tensor], object], x_t: torch.Tensor) -> float:
    """How long a call takes for each image, once whatever has to be compiled or indexed is."""
    start = time.perf_counter()
    ask(x_t[:1])
    first = time.perf_counter() - start
    if first > SLOW:
        return first
    start = time.perf_counter()
    ask(x_t)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / len(x_t)


def measured(
    models: Mapping[str, Denoiser], calibrating: Callable[[torch.Tensor], object], data: ImageSet, label: int | None,
    device: str | torch.device,
) -> Cost:  # fmt: skip
    """Costs on a few noisy images in the middle of the noise."""
    noisy = noisy_images(data.select(label), next(iter(models.values())).schedule, 0.5, 4, 0, device)
    times = {name: seconds_an_image(lambda x, m=model: m.denoise(x, 0.5, label), noisy.x_t) for name, model in models.items()}
    return Cost(times, seconds_an_image(calibrating, noisy.x_t[:2]))


def fitted(effort: Effort, cost: Cost, minutes: float, spent: float = 0.0) -> Effort:
    """As much of an effort as fits a budget: fewer samples and draws, and then fewer steps.

    Args:
        effort: The most.
        cost: Of one image.
        minutes: The budget.
        spent: Seconds of it that are gone.

    Raises:
        InputError: If not even the least does.
    """
    budget = (60 * minutes - spent) * SHARE
    tried = effort
    for steps in dict.fromkeys((effort.steps, min(effort.steps, 12), min(effort.steps, 8))):
        for share in (1.0, 0.85, 0.7, 0.55, 0.45, 0.35, 0.27, 0.2, 0.15, 0.1, 0.07):
            samples = max(FEWEST, round(share * effort.samples))
            draws, calibration = max(8, round(share * effort.draws)), max(4, round(share * effort.calibration))
            tried = replace(effort, steps=steps, samples=samples, draws=draws, calibration=calibration)
            if cost.total(tried) <= budget:
                return tried
            if samples == FEWEST:
                break
    least = (cost.total(tried) / SHARE + spent) / 60
    dear = max(cost.seconds(tried).items(), key=lambda item: item[1])[0]
    raise InputError(
        f"--budget {minutes:g} minutes",
        f"at least {least:.1f}, for {tried.samples} samples of {tried.steps} steps",
        f"raise it, leave out theories with --theories ({dear} takes longest), or take fewer training images, as with count=",
    )


def in_words(seconds: float) -> str:
    """A time to wait, as one would say it."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
