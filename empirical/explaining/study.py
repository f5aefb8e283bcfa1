"""The measurements of `empirical.explain`, part by part, so that an interrupted run goes on where it was."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from rich.progress import Progress
from torch import Tensor

from empirical.calibrate import calibrate, default_sizes
from empirical.explaining.attention import solved
from empirical.explaining.effort import Effort
from empirical.explaining.seeing import seen
from empirical.explaining.theories import THEORIES, constant, machines, others, sizes_to_try
from theory.data.imageset import ImageSet
from theory.denoiser import Denoiser
from theory.metrics import noisy_images
from theory.patches import PatchSchedule
from theory.results import ResultDirectory
from theory.sampling import DDIM, initial_noise
from theory.stationarity import SolvedScore

CHUNK = 20  # samples made at once, after which a run can stop
NETWORK = "network"


class StoppedError(KeyboardInterrupt):
    """The user asked to stop."""


@dataclass
class Study:
    """A network, its data, and what is measured of both.

    Args:
        network, data, label: What is explained, conditioned on a class or not.
        names: Theories, keys of `THEORIES`.
        specs: Further ones, as `empirical.models.open_model` takes them.
        effort: How much of everything.
        attention: ``solve`` or ``none``.
        seed, rtol, device: Of all noise; of the machines; where all of it works.
        results: Where parts are kept.
        progress: Where to show it.
        stopped: Whether the user asked to stop.
    """

    network: Denoiser
    data: ImageSet
    label: int | None
    names: list[str]
    specs: list[str]
    effort: Effort
    attention: str
    seed: int
    rtol: float
    device: torch.device
    results: ResultDirectory
    progress: Progress
    stopped: Callable[[], bool]
    patches: dict[str, PatchSchedule] = field(default_factory=dict)

    @property
    def times(self) -> list[float]:
        """Levels, in the middle of equal intervals of t."""
        return [(i + 0.5) / self.effort.levels for i in range(self.effort.levels)]

    @property
    def borders(self) -> list[str]:
        """Those for which patches are needed."""
        needed = {THEORIES[name].border for name in self.names} - {None}
        return sorted(needed | ({"zeros"} if self.attention == "solve" else set()), reverse=True)

    def part(self, name: str, make: Callable[[], tuple[dict, dict[str, Tensor]]]) -> tuple[dict, dict[str, Tensor]]:
        """A part, made unless an interrupted run left it; also where a wish to stop is heard."""
        if self.stopped():
            raise StoppedError
        if self.results.part(name) is None:
            self.results.save_part(name, *make())
        return self.results.part(name)

    def seeing(self) -> tuple[dict, dict[str, Tensor]]:
        """What the network sees (`seen`)."""

        def make() -> tuple[dict, dict[str, Tensor]]:
            task = self.progress.add_task("what it sees", total=len(self.times))
            try:
                return seen(
                    self.network, self.data, self.times, seed=self.seed, label=self.label, device=self.device,
                    told=lambda: self.progress.advance(task),
                )  # fmt: skip
            finally:
                self.progress.remove_task(task)

        return self.part("seeing", make)

    def sizes(self, border: str) -> list[int]:
        """Patch sizes to choose from."""
        fields = [level["field"] for level in self.seeing()[0]["levels"]]
        widest = None if None in fields else max(fields)
        return sizes_to_try(max(default_sizes(self.network, self.data, border)), widest)

    def calibrated(self) -> dict[str, dict]:
        """Patch sizes level by level, for each border; sets `patches`."""
        found = {}
        for border in self.borders:
            report, _ = self.part(f"calibration-{border}", lambda border=border: (self._calibrate(border), {}))
            self.patches[border] = PatchSchedule.of([level["best"] for level in report["levels"]])
            found[border] = report
        return found

    def _calibrate(self, border: str) -> dict:
        options = {
            "levels": self.effort.levels,
            "draws": self.effort.calibration,
            "label": self.label,
            "seed": self.seed,
            "rtol": self.rtol,
        }
        return calibrate(self.network, self.data, self.sizes(border), border=border, **options, device=self.device, progress=self.progress)[
            1
        ]

    def theories(self) -> dict[str, Denoiser]:
        """All theories, calibrated, and solved where that was asked for."""
        found = machines(self.names, self.data, self.network.schedule, self.patches, self.rtol)
        found |= others(self.specs, self.data, self.network.schedule, str(self.device))
        if self.attention == "solve":
            folder = self.results.path / "attention"
            self.part("attention", lambda: (self._solve(), {}))
            family = self.results.part("attention")[0]["family"]
            found[f"attention, {family}"] = SolvedScore.load(folder / family, self.data, self.network.schedule)
        return found

    def _solve(self) -> dict:
        patch = constant(self.patches["zeros"])
        return solved(self.network, self.data, self.times, patch, self.results.path / "attention", self.device, self.progress)

    def samples(self, name: str, model: Denoiser) -> Tensor:
        """Samples of a model from the noise that all start from, on the CPU."""
        shape = (self.effort.samples, *self.data.images.shape[1:])
        noise = initial_noise(model.schedule, shape, self.seed)
        made = []
        task = self.progress.add_task(f"{name}: samples", total=len(noise))
        for first in range(0, len(noise), CHUNK):

            def make(first: int = first) -> tuple[dict, dict[str, Tensor]]:
                some = noise[first : first + CHUNK].to(self.device)
                return {}, {"samples": DDIM(model, self.effort.steps)(some, self.label).images.cpu()}

            made.append(self.part(f"{_file(name)}-samples-{first}", make)[1]["samples"])
            self.progress.update(task, completed=first + len(made[-1]))
        self.progress.remove_task(task)
        return torch.cat(made)

    def means(self, name: str, model: Denoiser) -> Tensor:
        """Posterior means of the noisy images at each level, with shape ``(levels, draws, C, H, W)``."""
        made = []
        task = self.progress.add_task(f"{name}: levels", total=len(self.times))
        for number, t in enumerate(self.times):

            def make(t: float = t) -> tuple[dict, dict[str, Tensor]]:
                x_t = self.noisy(t).x_t
                return {}, {"means": torch.cat([model.denoise(x, t, self.label).cpu() for x in x_t.to(self.device).split(CHUNK)])}

            made.append(self.part(f"{_file(name)}-level-{number}", make)[1]["means"])
            self.progress.advance(task)
        self.progress.remove_task(task)
        return torch.stack(made)

    def noisy(self, t: float):
        """The noisy images of a level, the same for all models."""
        return noisy_images(self.data.select(self.label), self.network.schedule, t, self.effort.draws, self.seed)


def _file(name: str) -> str:
    """A name that a file can have."""
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name)
