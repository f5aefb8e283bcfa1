"""``python -m empirical.explain``: which theory predicts a network, how well, and where it fails. One page.

Measures what the network sees, calibrates patch sizes, runs every theory that applies from the same noise, and writes ``index.html``,
``report.json`` and ``samples.safetensors``. Says before it starts how long it will take; stopped, the same command goes on.
"""

import argparse
import shlex
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import Tensor

from empirical.calibrate import default_sizes
from empirical.explaining import page
from empirical.explaining.attention import family_of
from empirical.explaining.effort import Effort, fitted, in_words, measured
from empirical.explaining.study import NETWORK, Study
from empirical.explaining.theories import THEORIES, chosen, machines, others, sizes_to_try
from empirical.explaining.verdict import lead, losses, memorised, nearest, parting, rows, sentences, warnings
from empirical.metrics import r2_pearson
from empirical.models import open_model
from empirical.outside.denoiser import OutsideDenoiser
from empirical.outside.diffusers import between
from empirical.training.loop import stop_signal
from empirical.training.memory import keep_freed_memory
from theory.commandline import Parser, console_of, default_out, find_device, guarded, live
from theory.data import ImageSet, load
from theory.denoiser import Denoiser
from theory.discrete import DiscreteSchedule
from theory.errors import InputError
from theory.lock import writing
from theory.machines import EquivariantLocal
from theory.metrics import memorisation, noisy_images
from theory.plain import PlainConsole
from theory.results import ResultDirectory, begun, versions

FORMAT = "empirical.explain/1"
PAGE = "index.html"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    d = Effort()
    p = Parser.of(
        "empirical.explain",
        "Which theory predicts a trained network, how well, and where does it fail? Writes one page, "
        "index.html, with the verdict first. "
        "Stopped, it goes on where it was when the command is repeated.",
    )
    p.add_argument(
        "network",
        help="a training directory, or diffusers:DIR, module:FILE.py:NAME, azula:FILE.py:NAME, edm:FILE, kamb:FILE, "
        "with options after commas",
    )
    p.add_argument("--dataset", required=True, help="its training set: digits, cifar10:DIR, mnist:DIR, hf:DIR, folder:DIR, npz:FILE, ...")
    p.add_argument("--out", type=Path, help="directory; runs/explain/ and both names if not given")
    p.add_argument(
        "--budget", type=float, metavar="MINUTES", help="choose samples, draws and steps to take no longer, and say what that costs"
    )
    p.add_argument("--samples", type=int, default=d.samples, help="samples of each model (with a budget, at most)")
    p.add_argument("--steps", type=int, default=d.steps, help="sampling steps")
    p.add_argument("--levels", type=int, default=d.levels, help="noise levels")
    p.add_argument("--draws", type=int, default=d.draws, help="noisy images at each level")
    p.add_argument("--calibration", type=int, default=d.calibration, help="noisy images at each level, for the patch sizes")
    p.add_argument("--theories", nargs="+", metavar="NAME", help=f"only some of {', '.join(THEORIES)}; the ideal score always")
    p.add_argument(
        "--theory", action="append", default=[], metavar="MODEL", help="one more, such as a solved score or a machine with options"
    )
    p.add_argument(
        "--attention",
        default="auto",
        choices=("auto", "solve", "none"),
        help="solve the score of attention; auto: for our own networks that have it",
    )
    p.add_argument("--label", type=int, help="condition the network and all theories on this class")
    p.add_argument("--rtol", type=float, default=0.0, help="share of a posterior's weight that machines may leave out; 0 for exact sums")
    p.add_argument("--seed", type=int, default=0, help="seed of all noise")
    p.add_device()
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 for bad input, 130 when interrupted."""
    a = parser().parse_args(argv)
    out = a.out or Path("runs/explain") / f"{default_out(a.dataset).name}-{default_out(a.network).name}"
    command = shlex.join(["python", "-m", "empirical.explain", *(sys.argv[1:] if argv is None else argv)])
    return guarded(
        lambda: _alone(a, out, command),
        "free space or choose another --out; the same command goes on",
        f"the same command goes on from {out}",
    )


def _alone(a: argparse.Namespace, out: Path, command: str) -> int:
    if out.is_file():
        raise InputError(f"--out {out}, a file", "a directory", "choose another --out")
    ResultDirectory.require_own(out, FORMAT)
    with writing(out), torch.no_grad():
        return _run(a, out, command)


def _run(a: argparse.Namespace, out: Path, command: str) -> int:
    console = console_of()
    keep_freed_memory()
    device, start = find_device(a.device), time.perf_counter()
    if a.budget is not None and not a.budget > 0:
        raise InputError(f"--budget {a.budget:g}", "a positive number of minutes", "raise it, or leave it out")
    names, effort = chosen(a.theories), Effort(a.samples, a.steps, a.levels, a.draws, a.calibration)
    data = load(a.dataset)
    network = open_model(a.network, data, device=device)
    a.label = getattr(network, "label", None) if a.label is None else a.label  # a class in the specification is one of the theories too
    data.select(a.label)
    attention = _attention(a, network)
    others(a.theory, data, network.schedule, str(device))
    identity = _identity(a, data, names, attention) | {"answers": _answers(network, data, a.label, device)}
    before = begun(out, FORMAT)
    if before is not None and {k: v for k, v in before.items() if k != "effort"} == identity:
        effort = Effort(**before["effort"])
        console.print(f"going on in {out}: {_described(effort)}", highlight=False)
    else:
        effort = _planned(a, effort, network, data, names, device, console, start)
    identity["effort"] = asdict(effort)
    results = ResultDirectory(out, identity, resume=before == identity, format=FORMAT)
    if before != identity:
        results.clear("attention", ())
    columns = (TextColumn("{task.description:28}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn())
    with stop_signal() as stopped, live(console, *columns) as progress:
        study = Study(network, data, a.label, names, a.theory, effort, attention, a.seed, a.rtol, device, results, progress, stopped)
        report, tensors = _measured(study, console)
    report |= {"network": a.network, "command": command, "seconds": time.perf_counter() - start, "versions": versions()}
    report["precision"] = _precision(report, Effort(a.samples, a.steps, a.levels, a.draws, a.calibration), a.budget)
    page.write(out / PAGE, report, tensors)
    results.finish(report, {name: x for name, x in tensors.items() if name.startswith("samples.")})
    _print(report, console, out)
    return 0


def _attention(a: argparse.Namespace, network: Denoiser) -> str:
    if a.attention != "auto":
        return a.attention
    return "solve" if family_of(network) is not None and a.budget is None else "none"


def _identity(a: argparse.Namespace, data: ImageSet, names: list[str], attention: str) -> dict:
    """Everything that determines the numbers, but the effort, which a budget decides."""
    told = {
        k: getattr(a, k)
        for k in ("network", "theory", "label", "rtol", "seed", "samples", "steps", "levels", "draws", "calibration", "budget")
    }
    return {**told, "theories": names, "attention": attention, "data": data.fingerprint, "versions": versions()}


def _answers(network: Denoiser, data: ImageSet, label: int | None, device: torch.device) -> str:
    """What tells a network from one with other weights, as one number to four digits: what it makes of a few noisy images."""
    noisy = noisy_images(data.select(label), network.schedule, 0.5, 2, 0, device)
    return f"{float(network.denoise(noisy.x_t, noisy.t, label).double().norm()):.4g}"


def _planned(
    a: argparse.Namespace, effort: Effort, network: Denoiser, data: ImageSet, names: list[str], device: torch.device, console: PlainConsole,
    start: float,
) -> Effort:  # fmt: skip
    """The effort, cut to a budget; says how long it will take."""
    borders = sorted({THEORIES[n].border for n in names} - {None})
    tried = {b: sizes_to_try(max(default_sizes(network, data, b)), None) for b in borders}
    models = {
        NETWORK: network,
        **machines(names, data, network.schedule, {b: sizes[len(sizes) // 2] for b, sizes in tried.items()}, a.rtol),
    }
    models |= others(a.theory, data, network.schedule, str(device))
    sweeps = {b: EquivariantLocal(data, network.schedule, patch_size=sizes[0], border=b, rtol=a.rtol) for b, sizes in tried.items()}

    def calibrating(x_t: Tensor) -> None:
        for b, machine in sweeps.items():
            machine.sweep(x_t, 0.5, tried[b], a.label)

    cost = measured(models, calibrating, data, a.label, device)
    if a.budget is not None:
        effort = fitted(effort, cost, a.budget, time.perf_counter() - start)
    parts = sorted(cost.seconds(effort).items(), key=lambda item: -item[1])
    told = ", ".join(f"{name} {in_words(s)}" for name, s in parts[:4])
    console.print(f"{_described(effort)}; this will take about {in_words(cost.total(effort))} ({told}, ...)", highlight=False)
    return effort


def _described(effort: Effort) -> str:
    return f"{effort.samples} samples of {effort.steps} steps, {effort.levels} levels with {effort.draws} noisy images"


def _measured(study: Study, console: PlainConsole) -> tuple[dict, dict[str, Tensor]]:
    """All parts, and what follows from them."""

    def say(line: str) -> None:
        if not console.is_terminal:
            console.print(line, highlight=False)

    seeing, maps = study.seeing()
    say(f"padding by its answers to shifts: {seeing['padding']}; fields {[level['field'] for level in seeing['levels']]}")
    calibration = study.calibrated()
    for border, found in calibration.items():
        say(f"patch sizes, {border}: {[level['best'] for level in found['levels']]}")
    samples, means = {}, {}
    for name, model in {NETWORK: study.network, **study.theories()}.items():
        samples[name], means[name] = study.samples(name, model), study.means(name, model)
        say(f"done: {name}")
    noisy = [study.noisy(t) for t in study.times]
    data = study.data.select(study.label)
    ranking = rows(samples, means, study.times, study.network.schedule, [n.x_t for n in noisy])
    copy, copies = nearest(samples[NETWORK], data)
    where, parted = parting(means, ranking[0]["name"])
    distances = memorisation(samples[NETWORK], data).distance
    r2 = r2_pearson(samples[NETWORK], samples[ranking[0]["name"]])
    report = {
        "data": {"name": study.data.name, "fingerprint": study.data.fingerprint, "images": len(data)},
        "effort": asdict(study.effort), "seeing": seeing, "calibration": calibration, "ranking": ranking, "nearest": copy,
        "lead": lead(samples[NETWORK], *(samples[row["name"]] for row in ranking[:2])) if len(ranking) > 1 else None,
        "parting": where, "memorised": memorised(samples, data), "losses": losses(means[NETWORK], noisy[0].x_0, data),
        "r2_of_samples": r2.nan_to_num(0).tolist(), "closest": distances.argsort()[:12].tolist(),
        "attention": None if study.attention == "none" else study.results.part("attention")[0],
        **_between(study.network, noisy[len(noisy) // 2]),
    }  # fmt: skip
    report["verdict"], report["warnings"] = sentences(report), warnings(report)
    tensors = {f"samples.{name}": x for name, x in samples.items()}
    return report, {**tensors, "nearest": copies, "fields": maps["fields"], "errors": maps["errors"], "parting": parted}


def _between(network: Denoiser, noisy) -> dict:
    """What is uncertain between the levels of a network that has some."""
    discrete = isinstance(network, OutsideDenoiser) and network.time == "timestep" and isinstance(network.schedule, DiscreteSchedule)
    if not discrete or network.classes:
        return {"between": None, "discrete_levels": network.schedule.levels if discrete else None}
    return {"between": between(network, noisy.x_t[:16], noisy.t), "discrete_levels": network.schedule.levels}


def _precision(report: dict, full: Effort, budget: float | None) -> str:
    """How wide the interval of the best theory is, and what a budget cost of it."""
    best, samples = report["ranking"][0]["r2_pearson"], report["effort"]["samples"]
    if best is None:
        return ""
    width = best["high"] - best["low"]
    told = f"The interval of the best theory is {width:.3f} wide"
    if budget is None or samples >= full.samples:
        return f"{told}."
    wider = f"with {full.samples} samples instead of the {samples} that fit {budget:g} minutes it would be about"
    return f"{told}; {wider} {width * (samples / full.samples) ** 0.5:.3f}."


def _print(report: dict, console: PlainConsole, out: Path) -> None:
    table = Table(title="Median r2 of samples from the same noise (95% interval)", title_justify="left")
    for column in ("theory", "r2_pearson", "r2_determination", "pearson_r"):
        table.add_column(column, justify="left" if column == "theory" else "right")
    for row in (*report["ranking"], report["nearest"]):
        values = [row.get(key) for key in ("r2_pearson", "r2_determination", "pearson_r")]
        first = f"{values[0]['value']:.3f} [{values[0]['low']:.3f}, {values[0]['high']:.3f}]" if values[0] else ""
        table.add_row(row["title"], first, *(f"{v['value']:.3f}" if v else "" for v in values[1:]))
    console.print(table)
    for line in (*report["verdict"], *report["warnings"], report["precision"]):
        console.print(line, highlight=False)
    console.print(f"written to {out}: {PAGE}, report.json, samples.safetensors", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
