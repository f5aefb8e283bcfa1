"""Options made real: everything is checked and built before anything is written."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from theory.command.options import Config, parse_patch_size
from theory.commandline import find_device, several
from theory.data import ImageSet, load
from theory.denoiser import Denoiser
from theory.errors import InputError, choices
from theory.machines import MACHINES, AnalyticDenoiser, ClosedForm
from theory.noise import Schedule, schedule
from theory.sampling import sampler
from theory.specification import machine
from theory.stationarity import DEFAULT, FAMILIES, Options, Plan, SolvedScore
from theory.stationarity.options import EVERYWHERE
from theory.stationarity.run import one_size

REFERENCE = ", reference"  # after the name of a solution that is measured beside those of the run
SOLVER = ("prediction", "strength", "beta", "embedding", "features", "images", "refinement", "fresh", "challenge")


@dataclass(frozen=True)
class Task:
    """The configuration made real: what every machine is measured with."""

    config: Config
    data: ImageSet
    schedule: Schedule
    times: list[float]
    machines: dict[str, ClosedForm]
    plan: Plan | None
    solved: dict[str, SolvedScore]
    reference: dict[str, SolvedScore]
    device: torch.device
    dtype: torch.dtype
    memory: int
    distributed: bool

    @property
    def samples(self) -> int:
        return self.config.samples or (2000 if self.data.rule else 100)

    def shared(self, denoiser: Denoiser) -> bool:
        """Whether all processes compute it together: what sums no candidates is the first one's alone."""
        return self.distributed and isinstance(denoiser, AnalyticDenoiser)


def prepare(config: Config, device: str, memory: int) -> Task:
    """Check every option and build what the run needs; writes nothing."""
    for name, value in (("levels", config.levels), ("steps", config.steps)):
        require(value >= 1, f"--{name} {value}", "at least 1")
    require(config.draws >= 2, f"--draws {config.draws}", "at least 2, for a standard error")
    require(config.samples is None or config.samples >= 1, f"--samples {config.samples}", "at least 1")
    require(config.seed >= 0, f"--seed {config.seed}", "0 or more")
    require(config.dtype in ("float32", "float64"), f"--dtype {config.dtype!r}", "'float32' or 'float64'")
    names = tuple(MACHINES) if "all" in config.machines else tuple(dict.fromkeys(config.machines))
    for name in names:
        plain, _, options = name.partition(":")
        require(plain in MACHINES, f"machine {name!r}", choices(MACHINES))
        require(
            "guidance=" not in options, f"machine {name!r}", "no guidance, which wants classes and all images: empirical.compare has both"
        )
    for name in config.families or ():
        require(name in FAMILIES or name == "all", f"family {name!r}", choices([*FAMILIES, "all"]))
    solver = Options.of(config.quality, **{name: getattr(config, name) for name in SOLVER}, seed=config.seed)
    where = find_device(device)
    noise, _ = schedule(config.schedule), sampler(config.sampler)
    patch_size = None if config.patch_size is None else parse_patch_size(config.patch_size)
    data = load(config.dataset).select(config.label)
    distributed = several()
    local = {"patch_size": patch_size or data.patch_size, "border": config.border}
    summing = {"rtol": config.rtol, "distributed": distributed}
    machines = {}
    for name in names:
        kind = MACHINES[name.partition(":")[0]]
        chosen = {key: value for key, value in local.items() if key in kind.settings}
        chosen |= summing if issubclass(kind, AnalyticDenoiser) else {}
        machines[name] = machine(name, data, noise, memory=memory << 20, **chosen)
    times = [(i + 0.5) / config.levels for i in range(config.levels)]
    dtype = getattr(torch, config.dtype)
    families = _families(config.families, data)
    size = one_size(local["patch_size"]) if families else None
    plan = Plan(data, noise, families, tuple(times), size, config.border, solver, dtype, where, memory << 20) if families else None
    for option in ("start", "solved"):
        require(getattr(config, option) is None or plan is not None, f"--{option} without a family", "families to take from there")
    require(config.start is None or config.solved is None, "--start and --solved", "one of them")
    require(config.within is None or config.start is not None, "--within without --start", "solutions to go on from")
    if config.start is not None:
        there = tuple(f.name for f in plan.families if (Path(config.start) / f"{f.name}.json").is_file())
        require(bool(there), f"--start {config.start}", f"a solution of {choices(f.name for f in plan.families)} in it")
        plan = replace(plan, starts=tuple(_taken(config.start, there, plan).values()), within=config.within or EVERYWHERE)
    solved = {} if config.solved is None else _taken(config.solved, families, plan)
    require(not config.reference or plan is not None, "--reference without a family to solve", "saved solutions of what is solved")
    reference = {k: x for path in config.reference for k, x in _taken(Path(path).parent, (Path(path).name,), plan).items()}
    beside = {f"{name}{REFERENCE}": solution for name, solution in reference.items()}
    return Task(config, data, noise, times, machines, plan, solved, beside, where, dtype, memory << 20, distributed)


def _taken(path: str | Path, names: tuple[str, ...], plan: Plan) -> dict[str, SolvedScore]:
    """Saved solutions, which must be of the same problem."""
    loaded = {name: SolvedScore.load(Path(path) / name, plan.data, plan.schedule, plan.memory) for name in names}
    for name, solution in loaded.items():
        require(solution.setting.family == name, f"solution {path}/{name} of family {solution.setting.family}", f"family {name}")
        plan.require_same(solution)
    return loaded


def _families(given: tuple[str, ...] | None, data: ImageSet) -> tuple[str, ...]:
    if given is None:
        return DEFAULT if data.rule else ()
    return tuple(FAMILIES) if "all" in given else given


def require(condition: bool, given: str, expected: str) -> None:
    if not condition:
        raise InputError(given, expected, "see --help")
