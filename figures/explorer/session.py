"""One data set, its models and what is computed of them: what the page and the server are made of."""

import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

import theory
from empirical.metrics import r2_pearson
from figures.explorer.models import Shown
from figures.explorer.names import Names
from figures.explorer.numbers import measured, reference
from figures.explorer.pack import packed
from figures.explorer.trace import Plan, Trace, pieces, trace
from theory.data import ImageSet
from theory.errors import InputError
from theory.noise import Noise
from theory.sampling import DDIM, initial_noise
from theory.types import Images

FURTHEST = 10**6  # number of the last sample that can be asked for: noise is drawn from the first one on


@dataclass(frozen=True)
class Session:
    """What is shown.

    Args:
        dataset: Its specification.
        data: The training set.
        shown: The models.
        plan: What is computed of each sample.
        seed: Seed of the initial noise.
        device: Where models are evaluated.
        arguments: The command that repeats it.
    """

    dataset: str
    data: ImageSet
    shown: list[Shown]
    plan: Plan
    seed: int
    device: torch.device
    arguments: list[str]

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of the images."""
        return tuple(self.data.images.shape[1:])

    @cached_property
    def names(self) -> Names:
        return Names(self.data)

    def noise(self, first: int, count: int) -> Images:
        """Initial noise of some samples."""
        schedule = self.shown[0].denoiser.schedule
        return initial_noise(schedule, (first + count, *self.shape), self.seed, device=self.device)[first:]

    def samples(self, first: int, count: int, *, t: float | None = None, tick: Callable = lambda: None) -> dict:
        """What the page shows of some samples, as JSON values; arguments of `follow`."""
        return self.told(self.follow(first, count, t=t, tick=tick), first, t)

    def follow(self, first: int, count: int, *, t: float | None = None, tick: Callable = lambda: None) -> Trace:
        """All models from the initial noise of some samples.

        Args:
            first, count: Which.
            t: A time that is told in any case; the sampler then stops there too.
            tick: Called after every piece of the work.

        Raises:
            InputError: If a number is out of range.
        """
        if not 0 <= first < FURTHEST:
            raise InputError(f"sample {first}", f"0 to {FURTHEST - 1}", "choose another one")
        times = torch.linspace(1, 0, self.plan.steps + 1, dtype=torch.float64)
        if t is not None:
            times = _with(times, _time(t))
        return trace(self.shown, self.noise(first, count), self.plan, times=times, also=t, tick=tick)

    def from_image(self, image: Tensor, t: float, seed: int, *, tick: Callable = lambda: None) -> dict:
        """What the models make of an image to which noise is added up to a time, as in arXiv 2108.01073.

        Args:
            image: Pixels in [-1, 1], with shape ``(C, H, W)``.
            t: Where they start, in (0, 1].
            seed: Of the noise.
            tick: Called after every piece of the work.

        Raises:
            InputError: If the time or the seed is out of range.
        """
        start = _time(t)
        if not 0 <= seed < FURTHEST:
            raise InputError(f"seed {seed}", f"0 to {FURTHEST - 1}", "choose another one")
        x_t = self.shown[0].denoiser.schedule.perturb(image[None], start, Noise(seed)(image[None]))
        steps = max(1, math.ceil(self.plan.steps * start))
        times = torch.linspace(start, 0, steps + 1, dtype=torch.float64)
        return self.told(trace(self.shown, x_t.to(self.device), self.plan, times=times, tick=tick), None)

    def pieces(self, levels: int | None = None) -> int:
        """About how many pieces of work a trace has."""
        return pieces(len(self.shown), len(self.plan.told()) if levels is None else levels)

    def told(self, found: Trace, first: int | None, t: float | None = None) -> dict:
        """As the page reads it: JSON values.

        Args:
            found: Some samples.
            first: Number of the first of them; None for an image of the user's.
            t: The time that was asked for.
        """
        truth = found.finals[reference(self.shown)]
        rule = self.data.rule
        arrays = {**found.arrays, "images": ("byte", self.data.select().images[found.used])}
        return {
            "first": first,
            "count": len(truth),
            "asked": found.times[-1] if t is None else t,
            "times": found.times,
            "ratios": found.ratios,
            "used": found.used,
            "names": [self.names.image(n) for n in found.used],
            "labels": [self.names.label(n) for n in found.used],
            "patches": found.patches,
            "consistent": [rule.consistent(x).tolist() for x in found.finals] if rule else None,
            "r2": [[r if math.isfinite(r) else None for r in r2_pearson(truth, x).tolist()] for x in found.finals],
            **packed(arrays)._asdict(),
        }

    def numbers(self, count: int, finals: list[Images], tick: Callable = lambda: None) -> dict:
        """What is measured of all models on the first samples, at least so many.

        Args:
            count: How many.
            finals: Those of each model that are there already, from the first one on.
            tick: Called after every model.
        """
        samples = []
        for model, there in zip(self.shown, finals, strict=True):
            more = self.noise(len(there), max(0, count - len(there)))
            samples.append(torch.cat([there, DDIM(model.denoiser, self.plan.steps)(more).images.cpu()]) if len(more) else there)
            tick()
        return measured(self.shown, samples, self.data)

    def first(self, count: int, draws: int, *, served: bool, tick: Callable = lambda: None) -> dict:
        """Everything on a page with the first samples, as JSON values.

        Args:
            count: Samples that are shown.
            draws: Samples that are measured.
            served: Whether the page may ask for more.
            tick: Called after every piece of the work.
        """
        found = self.follow(0, count, tick=tick)
        return self.content(self.numbers(draws, found.finals, tick), [self.told(found, 0)], served)

    def _lively(self) -> list[int]:
        """Row and column of the pixel that varies most over the training images."""
        spread = self.data.select().images[: 2**12].double().var(0, correction=0).sum(0)
        return list(divmod(int(spread.argmax()), spread.shape[1]))

    def content(self, numbers: dict, packs: list[dict], served: bool) -> dict:
        """Everything on the page, as JSON values."""
        return {
            "title": f"Where does this pixel come from? {self.data.name}",
            "dataset": self.dataset,
            "version": theory.__version__,
            "data": {
                "name": self.data.name,
                "images": len(self.data.select()),
                "shape": self.shape,
                "fingerprint": self.data.fingerprint,
                "rule": self.data.rule is not None,
            },
            "seed": self.seed,
            "steps": self.plan.steps,
            "schedule": self.shown[0].denoiser.schedule.name,
            "models": [
                {
                    "name": m.name,
                    "title": m.title,
                    "spec": m.spec,
                    "kind": m.kind,
                    "own": m.own,
                    "machine": m.machine.name,
                    "whole": not m.machine.per_pixel,
                }
                for m in self.shown
            ],
            "start": {"sample": _telling(packs[0]), "pixel": self._lively()},
            "numbers": numbers,
            "command": shlex.join(["python", "-m", "figures.explore", *self.arguments]),
            "packs": packs,
            "served": served,
        }


def _telling(pack: dict) -> int:
    """The first sample in which some models end up obeying the rule and others do not; the first where there is none."""
    ends = list(zip(*pack["consistent"], strict=True)) if pack["consistent"] else []
    return pack["first"] + next((i for i, good in enumerate(ends) if len(set(good)) > 1), 0)


def _time(t: float) -> float:
    if not 0.001 <= t <= 1:
        raise InputError(f"noise level t = {t:g}", "0.001 to 1", "choose another one")
    return float(t)


def _with(times: Tensor, t: float) -> Tensor:
    """Times and one more, falling."""
    near = (times - t).abs().min() < 1e-9
    return times if near else torch.cat([times, times.new_tensor([t])]).sort(descending=True).values
