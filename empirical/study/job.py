"""What a study has to do, and how far it is: its size, and networks trained as far as they are missing."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.progress import Progress

from empirical.checkpoint import NAME, Checkpoint
from empirical.train import Config, train
from empirical.training.config import given
from theory.data import ImageSet
from theory.errors import InputError

FORMAT = "empirical.reproduce/1"
SAMPLES = "samples.safetensors"
KEPT = 500  # samples of each model that are written
FULL_STEPS = {"toy": 20_000, "digits": 10_000, "field": 10_000, "digits-attention": 10_000}
SMALLEST = dict.fromkeys(FULL_STEPS, 60)
FULL = 0.3  # budget from which on nothing but steps, samples and draws is cut


@dataclass(frozen=True)
class Scale:
    """How much of everything, for a budget in (0, 1].

    Attributes:
        budget: Share of the full study.
        steps, seeds: Training steps, and networks of each kind.
        samples, draws: Samples of each model, and noisy images per level.
        sampling: Steps of a sample.
        watched: Samples of each checkpoint on the way.
        theory: Options of `theory.solve`.
    """

    budget: float
    steps: int
    seeds: int
    samples: int
    draws: int
    sampling: int
    watched: int
    theory: dict

    @classmethod
    def of(cls, study: str, budget: float, steps: int | None, seeds: int | None) -> "Scale":
        """For a study; steps and seeds may be given instead."""
        if not 0 < budget <= 1:
            raise InputError(f"--budget {budget}", "0 < budget <= 1", "choose 1 for everything, .01 for a smoke run")
        full = budget >= FULL
        steps = max(SMALLEST[study], round(FULL_STEPS[study] * budget)) if steps is None else steps
        seeds = (3 if full else 1) if seeds is None else seeds
        if steps < 1 or seeds < 1:
            raise InputError(f"--steps {steps}, --seeds {seeds}", "at least 1 of each", "correct the options")
        share = min(1, 2 * budget)
        if full:
            theory = {"levels": 8, "quality": "full"}
        else:
            theory = {"levels": 3, "images": max(5000, round(60_000 * budget)), "fresh": 500, "features": 16}
        return cls(
            budget, steps, seeds, max(100, round(2000 * share)), max(200, round(4000 * share)),
            50 if full else 10, 1000 if full else 100, theory,
        )  # fmt: skip


class StoppedError(KeyboardInterrupt):
    """The user asked to stop."""


@dataclass(frozen=True)
class Job:
    """A study to run: how much of it, with what, and where to."""

    out: Path
    scale: Scale
    device: torch.device
    dataset: str
    models: list[str]
    target: str
    rate: float
    batch: int
    stopped: Callable[[], bool]
    progress: Progress

    def trained(self, config: Config, data: ImageSet, name: str, start: Checkpoint | None = None) -> Checkpoint:
        """The finished checkpoint of a network, trained as far as it is missing."""
        path = self.out / "train" / name
        if (path / NAME).is_file():
            saved = Checkpoint.load(path)
            begun = None if start is None else start.origin()
            same = saved.step == config.steps and _decisive(saved.identity["config"]) == _decisive(asdict(config))
            if same and saved.identity.get("start") == begun:
                return saved
        trainer = train(config, data, out=path, start=start, device=self.device, resume=True, stopped=self.stopped, progress=self.progress)
        if trainer.done < config.steps:
            raise StoppedError
        return trainer.checkpoint()

    def say(self, line: str) -> None:
        """A line of progress; also where a wish to stop is heard."""
        self.progress.console.print(line, highlight=False)
        if self.stopped():
            raise StoppedError


def _decisive(config: dict) -> dict:
    """What determines the weights: all of a configuration but how often it is evaluated, and on how much."""
    return {key: value for key, value in given(config).items() if key not in ("every", "samples")}
