"""``python -m theory.solve``: every closed-form score of a data set, and the attention score, measured and sampled.

For each machine and each solved family of attention networks: its denoising loss at every noise level with
standard errors, samples from initial noise that all share, whether they obey the data's rule (toy), and how
close they come to the training images. Writes ``report.json``, ``samples.safetensors``, ``summary.png`` and
the solutions in ``attention/`` to the output directory, and prints tables.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import Tensor

from theory.attention import attention_tables, solve_attention, told, verdicts, view
from theory.calibrated import patch_schedule, published
from theory.commandline import Parser, default_out, find_device, first, guarded, processes, several
from theory.data import SOURCES, ImageSet, load
from theory.denoiser import Denoiser
from theory.errors import InputError, choices
from theory.lock import writing
from theory.machines import MACHINES, AnalyticDenoiser, Ideal
from theory.machines.base import MEMORY
from theory.metrics import Estimate, Proportion, denoising_loss, memorisation, noisy_images
from theory.noise import SCHEDULES, Schedule, schedule
from theory.patches import BORDERS, PatchSchedule, PatchSize
from theory.plain import PlainConsole
from theory.posterior.ranks import agreed
from theory.results import ResultDirectory, versions
from theory.sampling import SAMPLERS, initial_noise, sampler
from theory.stationarity import DEFAULT, FAMILIES, Options, Plan, SolvedScore
from theory.stationarity.basis import PREDICTIONS
from theory.stationarity.run import one_size
from theory.stationarity.solver import QUALITIES

CHEAP = tuple(name for name in MACHINES if name != "equivariant")  # its candidates are all shifts of all images
REFERENCE = ", reference"  # after the name of a solution that is measured beside those of the run
SOLVER = ("prediction", "strength", "beta", "embedding", "features", "images", "refinement", "fresh", "challenge")


@dataclass(frozen=True)
class Config:
    """What to compute. Everything here determines the numbers, and is saved with them."""

    dataset: str
    machines: tuple[str, ...] = CHEAP
    families: tuple[str, ...] | None = None
    start: str | None = None
    solved: str | None = None
    reference: tuple[str, ...] = ()
    prediction: str = Options.prediction
    strength: float = Options.strength
    beta: float = Options.beta
    embedding: int = Options.embedding
    quality: str = "quick"
    features: int | None = None
    images: int | None = None
    refinement: int | None = None
    challenge: bool | None = None
    fresh: int | None = None
    patch_size: str | None = None
    border: str = "zeros"
    label: int | None = None
    schedule: str = "cosine"
    levels: int = 8
    draws: int = 1000
    samples: int | None = None
    sampler: str = "ddim"
    steps: int = 50
    seed: int = 0
    dtype: str = "float32"
    rtol: float = 0.0


@dataclass(frozen=True)
class Task:
    """The configuration made real: what every machine is measured with."""

    config: Config
    data: ImageSet
    schedule: Schedule
    times: list[float]
    machines: dict[str, AnalyticDenoiser]
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
        """Whether all processes compute it together: solutions are the first one's alone."""
        return self.distributed and isinstance(denoiser, AnalyticDenoiser)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = Parser(
        prog="python -m theory.solve",
        description="Compute the closed-form scores of a data set and solve for the best score of a CNN with attention: "
        "denoising loss per noise level, samples from shared noise, what rule they obey and what they memorise. "
        "Exits with 1 when the certificate of a solved score fails.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    d = Config(dataset="")
    p.add_argument(
        "--dataset", required=True, help=f"data: {', '.join(SOURCES)}; parameters after a colon, as in toy:layout=strip or npz:FILE"
    )
    p.add_argument("--machines", nargs="+", default=d.machines, metavar="NAME", help=f"machines: {', '.join(MACHINES)}, or all")
    p.add_argument(
        "--families",
        nargs="*",
        metavar="NAME",
        help=f"attention networks to solve: {', '.join(FAMILIES)}, all, or nothing; "
        f"{' '.join(DEFAULT)} where there is a rule to check, else none, if not given",
    )
    p.add_argument("--start", metavar="DIR", help="go on from solutions of these families saved in a directory, each level by itself")
    p.add_argument("--solved", metavar="DIR", help="take these families from solutions saved in a directory instead of solving")
    p.add_argument("--reference", nargs="+", default=d.reference, metavar="PATH", help="measure saved solutions too, such as DIR/full")
    p.add_argument("--prediction", default=d.prediction, help=f"what attention networks predict: {', '.join(PREDICTIONS)}")
    p.add_argument("--strength", type=float, default=d.strength, metavar="LAMBDA", help="strength lambda of the attention")
    p.add_argument("--beta", type=float, default=d.beta, help="inverse temperature of the attention")
    p.add_argument("--embedding", type=int, default=d.embedding, metavar="D", help="numbers in a query or key")
    p.add_argument("--quality", default=d.quality, help=f"how much to put into solving: {', '.join(QUALITIES)}; chooses what follows")
    p.add_argument("--features", type=int, help="learned features of a patch")
    p.add_argument("--images", type=int, help="fresh noisy images to solve on, over all levels together")
    p.add_argument("--refinement", type=int, help="how often the intervals between levels are halved for the knots of the functions")
    p.add_argument(
        "--challenge", action=argparse.BooleanOptionalAction, default=None, help="solve again from another start, with half of everything"
    )
    p.add_argument("--fresh", type=int, help="other noisy images of each level, to judge solutions by")
    p.add_argument(
        "--patch-size",
        help="odd number, HEIGHTxWIDTH, a comma-separated list over equal intervals of t, a published schedule such as "
        "MNIST_ResNet_zeros, or a file of empirical.calibrate; the data's own if not given",
    )
    p.add_argument("--border", default=d.border, help=f"border of local machines: {', '.join(BORDERS)}")
    p.add_argument("--label", type=int, help="restrict the training set to one class")
    p.add_argument("--schedule", default=d.schedule, help=f"noise schedule: {', '.join(SCHEDULES)}")
    p.add_argument("--levels", type=int, default=d.levels, help="noise levels at which the loss is measured")
    p.add_argument("--draws", type=int, default=d.draws, help="noisy images per level")
    p.add_argument("--samples", type=int, help="samples of each machine; 2000 where there is a rule to check, else 100, if not given")
    p.add_argument("--sampler", default=d.sampler, help=f"sampler: {', '.join(SAMPLERS)}")
    p.add_argument("--steps", type=int, default=d.steps, help="sampling steps")
    p.add_argument("--seed", type=int, default=d.seed, help="seed of all random numbers")
    p.add_argument("--dtype", default=d.dtype, help="precision: float32 or float64")
    p.add_argument("--device", default="auto", help="auto, cpu or cuda")
    p.add_argument("--memory", type=int, default=MEMORY >> 20, help="working memory in MB")
    p.add_argument("--rtol", type=float, default=d.rtol, help="share of a posterior's weight that may be left out; 0 for exact sums")
    p.add_argument("--out", type=Path, help="output directory; runs/ and the data set if not given")
    p.add_argument("--resume", action="store_true", help="continue an interrupted run of the same options")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 for a failed certificate, 2 for bad input, 130 when interrupted."""
    arguments = vars(parser().parse_args(argv))
    interrupted = "the same command with --resume goes on where it was"
    return guarded(lambda: _verdict(_run(**arguments)), "free space or choose another --out; --resume keeps what is finished", interrupted)


def _run(**arguments) -> dict | None:
    with processes(arguments["device"]):
        return run(**arguments)


def _verdict(report: dict | None) -> int:
    if report is None:
        return 0
    failed = [name for name, family in report["attention"].items() if not family["certified"]]
    if failed:
        print(
            f"error: certificate failed: {', '.join(failed)}; raise --images or --features, or choose a better --quality", file=sys.stderr
        )
    return 1 if failed else 0


def run(*, device: str = "auto", memory: int = MEMORY >> 20, out: Path | None = None, resume: bool = False, **options) -> dict | None:
    """Compute, save and print everything; returns the report.

    In a group of processes of ``torch.distributed``, each sums a share of the training images; the first one solves for attention,
    writes and prints, and the others return None.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.
        memory: Working memory in MB.
        out: Output directory; see `default_out`.
        resume: Whether to continue an interrupted run.
        options: Fields of `Config`.

    Raises:
        InputError: If an option is not fit to use; nothing is written then.
    """
    task = prepare(Config(**{name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}), device, memory)
    identity = {**asdict(task.config), "data": task.data.fingerprint, "versions": versions()}
    identity = json.loads(json.dumps(identity))  # as it will be read back
    path = out or default_out(task.config.dataset)
    if not first():
        return _computed(task, None)
    ResultDirectory.require_own(path)
    with writing(path):
        return _computed(task, ResultDirectory(path, identity, resume))


def _computed(task: Task, results: ResultDirectory | None) -> dict | None:
    """Compute everything; the first process, which has results to write to, also writes and prints it."""
    leads = results is not None
    console = PlainConsole(stderr=True, width=None if sys.stderr.isatty() else 160, quiet=not leads)
    with _progress(console) as progress:
        parts = {name: _measured(name, machine, task, results, progress) for name, machine in task.machines.items()}
        if not leads:
            return None
        solutions = task.solved or (solve_attention(task.plan, results, progress) if task.plan else {})
        parts |= {name: _measured(name, solution, task, results, progress) for name, solution in solutions.items()}
        parts |= {name: _measured(name, solution, task, results, progress) for name, solution in task.reference.items()}
    certificates = {name: told(solution) for name, solution in (solutions | task.reference).items()}
    report, tensors = _report(task, parts, certificates), {f"samples.{name}": part[1]["samples"] for name, part in parts.items()}
    tensors["initial_noise"] = _noise(task)
    results.clear("attention", solutions)
    for name, solution in solutions.items():
        solution.save(results.path / "attention" / name)
    _draw(results.path, report, task, parts, solutions)
    results.finish(report, tensors)
    _print(report, task, results.path)
    return report


def prepare(config: Config, device: str, memory: int) -> Task:
    """Check every option and build what the run needs; writes nothing."""
    for name, value in (("levels", config.levels), ("steps", config.steps)):
        _require(value >= 1, f"--{name} {value}", "at least 1")
    _require(config.draws >= 2, f"--draws {config.draws}", "at least 2, for a standard error")
    _require(config.samples is None or config.samples >= 1, f"--samples {config.samples}", "at least 1")
    _require(config.seed >= 0, f"--seed {config.seed}", "0 or more")
    _require(config.dtype in ("float32", "float64"), f"--dtype {config.dtype!r}", "'float32' or 'float64'")
    names = tuple(MACHINES) if "all" in config.machines else tuple(dict.fromkeys(config.machines))
    for name in names:
        _require(name in MACHINES, f"machine {name!r}", choices(MACHINES))
    for name in config.families or ():
        _require(name in FAMILIES or name == "all", f"family {name!r}", choices([*FAMILIES, "all"]))
    solver = Options.of(config.quality, **{name: getattr(config, name) for name in SOLVER}, seed=config.seed)
    where = find_device(device)
    noise, _ = schedule(config.schedule), sampler(config.sampler)
    patch_size = None if config.patch_size is None else parse_patch_size(config.patch_size)
    data = load(config.dataset).select(config.label)
    distributed = several()
    options = {"schedule": noise, "memory": memory << 20, "rtol": config.rtol, "distributed": distributed}
    local = {"patch_size": patch_size or data.patch_size, "border": config.border}
    machines = {name: MACHINES[name](data, **options, **(local if MACHINES[name].per_pixel else {})) for name in names}
    times = [(i + 0.5) / config.levels for i in range(config.levels)]
    dtype = getattr(torch, config.dtype)
    families = _families(config.families, data)
    size = one_size(local["patch_size"]) if families else None
    plan = Plan(data, noise, families, tuple(times), size, config.border, solver, dtype, where, memory << 20) if families else None
    for option in ("start", "solved"):
        _require(getattr(config, option) is None or plan is not None, f"--{option} without a family", "families to take from there")
    _require(config.start is None or config.solved is None, "--start and --solved", "one of them")
    if config.start is not None:
        plan = replace(plan, starts=tuple(_taken(config.start, tuple(f.name for f in plan.families), plan).values()))
    solved = {} if config.solved is None else _taken(config.solved, families, plan)
    _require(not config.reference or plan is not None, "--reference without a family to solve", "saved solutions of what is solved")
    reference = {k: x for path in config.reference for k, x in _taken(Path(path).parent, (Path(path).name,), plan).items()}
    beside = {f"{name}{REFERENCE}": solution for name, solution in reference.items()}
    return Task(config, data, noise, times, machines, plan, solved, beside, where, dtype, memory << 20, distributed)


def _taken(path: str | Path, names: tuple[str, ...], plan: Plan) -> dict[str, SolvedScore]:
    """Saved solutions, which must be of the same problem."""
    loaded = {name: SolvedScore.load(Path(path) / name, plan.data, plan.schedule, plan.memory) for name in names}
    for name, solution in loaded.items():
        _require(solution.setting.family == name, f"solution {path}/{name} of family {solution.setting.family}", f"family {name}")
        plan.require_same(solution)
    return loaded


def _families(given: tuple[str, ...] | None, data: ImageSet) -> tuple[str, ...]:
    if given is None:
        return DEFAULT if data.rule else ()
    return tuple(FAMILIES) if "all" in given else given


def _require(condition: bool, given: str, expected: str) -> None:
    if not condition:
        raise InputError(given, expected, "see --help")


def parse_patch_size(text: str) -> PatchSize:
    """``5``, ``3x1``, several of these separated by commas, a published schedule's name or a file of one."""
    if text in published() or text.endswith(".json"):
        return patch_schedule(text)
    try:
        sizes = [tuple(int(n) for n in part.split("x")) for part in text.split(",")]
    except ValueError:
        expected = f"sizes such as 5, 3x1 or 3,5,7, a .json file, or one of {choices(published())}"
        raise InputError(f"--patch-size {text!r}", expected, "correct the option") from None
    return PatchSchedule.of([size[0] if len(size) == 1 else size for size in sizes])


def _measured(
    name: str, denoiser: Denoiser, task: Task, results: ResultDirectory | None, progress: Progress
) -> tuple[dict, dict[str, Tensor]] | None:
    """Losses and samples of one denoiser, computed or taken from an interrupted run; None for a process that does not write."""
    saved = results.part(name) if results else None
    missing = saved is None
    if task.shared(denoiser):
        missing = bool(agreed(torch.tensor([missing], device=task.device)))
    if missing:
        start = time.perf_counter()
        losses = _losses(denoiser, task, progress, name)
        samples = _samples(denoiser, task, progress, name)
        if results:
            results.save_part(name, {**losses, "seconds": time.perf_counter() - start}, {"samples": samples})
            saved = results.part(name)
    if not results:
        return None
    if not progress.console.is_terminal:
        progress.console.print(f"{name}: {saved[0]['seconds']:.1f} s")
    return saved


def _losses(denoiser: Denoiser, task: Task, progress: Progress, name: str) -> dict[str, list[float]]:
    ideal = Ideal(task.data, task.schedule, memory=task.memory, distributed=task.shared(denoiser))
    losses: list[tuple[Estimate, Estimate]] = []
    for t in progress.track(task.times, description=f"{name}: loss"):
        noisy = noisy_images(task.data, task.schedule, t, task.config.draws, task.config.seed, task.device)
        noisy = noisy._replace(x_t=noisy.x_t.to(task.dtype))
        losses.append(denoising_loss(denoiser, noisy, ideal.denoise(noisy.x_t, t)))
    loss, excess = zip(*losses, strict=True)
    return {
        "loss": [e.value for e in loss],
        "loss_stderr": [e.stderr for e in loss],
        "excess": [e.value for e in excess],
        "excess_stderr": [e.stderr for e in excess],
    }


def _samples(denoiser: Denoiser, task: Task, progress: Progress, name: str) -> Tensor:
    run = sampler(task.config.sampler)(denoiser, task.config.steps, seed=task.config.seed)
    return run(_noise(task).to(task.device), progress=progress, description=f"{name}: samples").images.cpu()


def _noise(task: Task) -> Tensor:
    return initial_noise(task.schedule, (task.samples, *task.data.images.shape[1:]), task.config.seed, task.dtype)


def _report(task: Task, parts: dict[str, tuple[dict, dict[str, Tensor]]], certificates: dict[str, dict]) -> dict:
    alpha, sigma = task.schedule(torch.tensor(task.times, dtype=torch.float64))
    return {
        "config": asdict(task.config),
        "versions": versions(),
        "data": {
            "name": task.data.name,
            "fingerprint": task.data.fingerprint,
            "images": len(task.data),
            "shape": list(task.data.images.shape[1:]),
            "patch_size": list(task.data.patch_size),
        },
        "device": str(task.device),
        "baseline": task.data.rule.baseline if task.data.rule else None,
        "levels": [{"t": t, "alpha": a, "sigma": s} for t, a, s in zip(task.times, alpha.tolist(), sigma.tolist(), strict=True)],
        "machines": {name: values for name, (values, _) in parts.items() if name not in certificates},
        "attention": {name: {**certificate, **_excess(parts[name][0])} for name, certificate in certificates.items()},
        "samples": {name: _judged(tensors["samples"], task.data) for name, (_, tensors) in parts.items()},
    }


def _excess(values: dict) -> dict:
    """What is measured of a solved score with the draws of the machines, beside its certificate."""
    return {key: values[key] for key in ("excess", "excess_stderr", "seconds")}


def _judged(samples: Tensor, data: ImageSet) -> dict[str, float]:
    """What samples obey, and what they copy."""
    copies = memorisation(samples, data)
    share = Proportion.of(copies.memorised)
    judged = {
        "count": len(samples),
        "nearest_distance": float(copies.distance.median()),
        "memorised": share.value,
        "memorised_low": share.low,
        "memorised_high": share.high,
    }
    if data.rule is not None:
        consistency = Proportion.of(data.rule.consistent(samples))
        judged |= {
            "consistency": consistency.value,
            "consistency_low": consistency.low,
            "consistency_high": consistency.high,
            "valid": float((data.rule.decode(samples) >= 0).all(1).double().mean()),
        }
    return judged


def _draw(path: Path, report: dict, task: Task, parts: dict[str, tuple[dict, dict[str, Tensor]]], solutions: dict[str, Denoiser]) -> None:
    from theory.picture import draw  # matplotlib takes a second to load, and is only needed at the end

    samples = {name: tensors["samples"] for name, (_, tensors) in parts.items()}
    good = task.data.rule.consistent if task.data.rule else lambda x: memorisation(x, task.data).memorised
    best = solutions.get("full") or next(reversed(solutions.values()), None)
    seen = view(best, task.config.seed) if best else None
    draw(path / "summary.png", report, samples, task.data, {name: good(s) for name, s in samples.items()}, seen)


def _progress(console: Console) -> Progress:
    """A live display on a terminal; elsewhere lines are printed instead."""
    columns = (TextColumn("{task.description:28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _print(report: dict, task: Task, path: Path) -> None:
    console = PlainConsole(width=None if sys.stdout.isatty() else 120)
    data = report["data"]
    shape = " x ".join(map(str, data["shape"]))
    console.print(f"\n[bold]{data['name']}[/bold]: {data['images']} images of {shape}, fingerprint {data['fingerprint'][:12]}\n")
    console.print(_loss_table(report))
    if report["attention"]:
        for table in attention_tables(report):
            console.print(table)
        for line in verdicts(report):
            console.print(line, highlight=False)
        console.print()
    console.print(_sample_table(report, task))
    files = "report.json, samples.safetensors, summary.png" + (", attention/" if report["attention"] else "")
    console.print(f"\nwritten to {path}: {files}", highlight=False)


def _loss_table(report: dict) -> Table:
    table = Table(title="Denoising loss per image, above the ideal one (± standard error)", title_justify="left")
    table.add_column("sigma/alpha", justify="right")
    table.add_column("ideal loss", justify="right")
    others = [name for name in report["machines"] if name != "ideal"]
    for name in others:
        table.add_column(name, justify="right")
    for i, level in enumerate(report["levels"]):
        ideal = report["machines"].get("ideal")
        cells = [f"{level['sigma'] / level['alpha']:.3f}", f"{ideal['loss'][i]:.3f}" if ideal else "-"]
        cells += [f"{m['excess'][i]:.3f} ± {m['excess_stderr'][i]:.3f}" for m in (report["machines"][n] for n in others)]
        table.add_row(*cells)
    return table


def _sample_table(report: dict, task: Task) -> Table:
    table = Table(title=f"{task.samples} samples each, from the same noise (95% interval)", title_justify="left")
    table.add_column("model")
    for column in (["consistent", "valid"] if task.data.rule else []) + ["memorised", "nearest image (rms)", "seconds"]:
        table.add_column(column, justify="right")
    for name, s in report["samples"].items():
        rule = [_share(s, "consistency"), f"{100 * s['valid']:.1f}%"] if task.data.rule else []
        seconds = f"{(report['machines'] | report['attention'])[name]['seconds']:.1f}"
        table.add_row(name, *rule, _share(s, "memorised"), f"{s['nearest_distance']:.4f}", seconds)
    if task.data.rule:
        table.caption = f"random colours are consistent with probability {100 * report['baseline']:.3f}%; valid: every cell is a colour"
        table.caption_justify = "left"
    return table


def _share(values: dict[str, float], name: str) -> str:
    return f"{100 * values[name]:.1f}% [{100 * values[name + '_low']:.1f}, {100 * values[name + '_high']:.1f}]"


if __name__ == "__main__":
    sys.exit(main())
