"""``python -m theory.solve``: every closed-form score of a data set, and the attention score, measured and sampled.

For each machine and each solved family of attention networks: its denoising loss at every noise level with
standard errors, samples from initial noise that all share, whether they obey the data's rule (toy), and how
close they come to the training images. Writes ``report.json``, ``samples.safetensors``, ``summary.png`` and
the solutions in ``attention/`` to the output directory, and prints tables.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor

from theory.command.measure import measured, shared_noise
from theory.command.options import Config, parser
from theory.command.report import report_of, told
from theory.command.solving import solve_attention
from theory.command.tables import attention_tables, loss_table, sample_table, verdicts
from theory.command.task import Task, prepare
from theory.command.view import view
from theory.commandline import console_of, default_out, first, guarded, live, processes
from theory.denoiser import Denoiser
from theory.lock import writing
from theory.machines.base import MEMORY
from theory.metrics import memorisation
from theory.plain import PlainConsole
from theory.results import ResultDirectory, versions


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
        parts = {name: measured(name, machine, task, results, progress) for name, machine in task.machines.items()}
        if not leads:
            return None
        solutions = task.solved or (solve_attention(task.plan, results, progress) if task.plan else {})
        parts |= {name: measured(name, solution, task, results, progress) for name, solution in solutions.items()}
        parts |= {name: measured(name, solution, task, results, progress) for name, solution in task.reference.items()}
    certificates = {name: told(solution) for name, solution in (solutions | task.reference).items()}
    report, tensors = report_of(task, parts, certificates), {f"samples.{name}": part[1]["samples"] for name, part in parts.items()}
    tensors["initial_noise"] = shared_noise(task)
    results.clear("attention", solutions)
    for name, solution in solutions.items():
        solution.save(results.path / "attention" / name)
    _draw(results.path, report, task, parts, solutions)
    results.finish(report, tensors)
    _print(report, task, results.path)
    return report


def _draw(path: Path, report: dict, task: Task, parts: dict[str, tuple[dict, dict[str, Tensor]]], solutions: dict[str, Denoiser]) -> None:
    from theory.command.picture import draw  # matplotlib takes a second to load, and is only needed at the end

    samples = {name: tensors["samples"] for name, (_, tensors) in parts.items()}
    good = task.data.rule.consistent if task.data.rule else lambda x: memorisation(x, task.data).memorised
    best = solutions.get("full") or next(reversed(solutions.values()), None)
    seen = view(best, task.config.seed) if best else None
    draw(path / "summary.png", report, samples, task.data, {name: good(s) for name, s in samples.items()}, seen)


def _progress(console: Console) -> Progress:
    """A live display on a terminal; elsewhere lines are printed instead."""
    columns = (TextColumn("{task.description:28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return live(console, *columns)


def _print(report: dict, task: Task, path: Path) -> None:
    console = console_of(120)
    data = report["data"]
    shape = " x ".join(map(str, data["shape"]))
    console.print(f"\n[bold]{data['name']}[/bold]: {data['images']} images of {shape}, fingerprint {data['fingerprint'][:12]}\n")
    console.print(loss_table(report))
    if report["attention"]:
        for table in attention_tables(report):
            console.print(table)
        for line in verdicts(report):
            console.print(line, highlight=False)
        console.print()
    console.print(sample_table(report, task))
    files = "report.json, samples.safetensors, summary.png" + (", attention/" if report["attention"] else "")
    console.print(f"\nwritten to {path}: {files}", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
