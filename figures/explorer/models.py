"""Who is shown: any denoisers, and for each the machine whose weights of training patches are told."""

from dataclasses import dataclass

import torch

from empirical.compare import titles
from empirical.models import is_network, open_model
from figures.results import COMMITTED
from figures.style import TITLE
from theory.data import ImageSet
from theory.denoiser import Denoiser
from theory.errors import InputError
from theory.machines import AnalyticDenoiser, EquivariantLocal
from theory.specification import has_patches, is_machine, patch_machine
from theory.stationarity import SolvedScore

TOY = "toy:layout=grid"
LONG = {"equivariant_local": "els", "local": "ls"}  # names of machines as `figures.style.TITLE` has them


@dataclass(frozen=True)
class Shown:
    """A model on the page.

    Attributes:
        name: Short, different from all others.
        spec: As `empirical.models` takes it.
        denoiser: The model.
        machine: Whose posterior over training patches is told.
        own: Whether that posterior is the model's own: closed-form machines have one, others are told what their patches look like.
    """

    name: str
    spec: str
    denoiser: Denoiser
    machine: AnalyticDenoiser

    @property
    def own(self) -> bool:
        return self.denoiser is self.machine

    @property
    def kind(self) -> str:
        """``machine``, ``solved`` or ``network``."""
        return "network" if is_network(self.denoiser) else "solved" if isinstance(self.denoiser, SolvedScore) else "machine"

    @property
    def title(self) -> str:
        """What a reader calls it."""
        if self.kind == "solved":
            return TITLE.get(self.denoiser.setting.family, self.denoiser.setting.family) + ", theory"
        if self.kind == "network":
            return f"network {self.name}"
        name, _, options = self.spec.partition(":")
        title = TITLE.get(LONG.get(name, name), name)
        return f"{title}, {options}" if options else title


def default_models(data: ImageSet) -> list[str]:
    """What is shown where nobody says: the machines, and on the toy data the committed solution and network."""
    if data.name == TOY and (COMMITTED / "toy-grid").is_dir():
        study = _short(COMMITTED / "toy-grid")
        return ["ideal", "equivariant_local", f"{study}/theory/attention/full", f"{study}/networks/attention-64"]
    return ["ideal", "local", "equivariant_local"]


def _short(path) -> str:
    """Relative to the current directory where it lies below."""
    here = path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def open_models(specs: list[str], data: ImageSet, device: torch.device) -> list[Shown]:
    """The models of some specifications; machines take the noise schedule of the first that has one of its own.

    Raises:
        InputError: If there are fewer than two, one can't be opened, or noise schedules differ.
    """
    if len(specs) < 2:
        raise InputError(f"--models {' '.join(specs)}", "two or more models", "name another one to compare with")
    names = titles(specs)
    opened = [open_model(spec, data, device=device) for spec in specs]
    fixed = [m.schedule for s, m in zip(specs, opened, strict=True) if not is_machine(s)]
    if fixed:
        opened = [open_model(s, data, fixed[0], device) if is_machine(s) else m for s, m in zip(specs, opened, strict=True)]
    for name, model in zip(names, opened, strict=True):
        if model.schedule.name != opened[0].schedule.name:
            raise InputError(
                f"model {name!r} with the {model.schedule.name} schedule",
                f"{opened[0].schedule.name}, that of the first",
                "show like with like",
            )
    local = next((m for m in opened if isinstance(m, EquivariantLocal)), None)
    local = local or EquivariantLocal(data, opened[0].schedule, patch_size=data.patch_size)
    return [
        Shown(name, spec, model, patch_machine(model, data) if has_patches(model) else local)
        for name, spec, model in zip(names, specs, opened, strict=True)
    ]
