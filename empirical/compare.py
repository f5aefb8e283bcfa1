"""``python -m empirical.compare``: how well one denoiser predicts another, sample by sample.

The first model is the truth (a network, as a rule); every other one, and the ideal score as the null, is held
against it on the same initial noise, the same steps and the same noisy images.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from empirical.metrics import Gap, Median, cosine, label_agreement, pearson_r, r2_determination, r2_pearson
from empirical.models import is_network, open_model
from theory.commandline import Parser, console_of, find_device, guarded, live
from theory.data import ImageSet, load
from theory.denoiser import Denoiser
from theory.errors import InputError
from theory.machines import Ideal
from theory.metrics import Estimate, Proportion, memorisation, noisy_images, squared_error
from theory.noise import Schedule
from theory.results import prepare_file, versions, write_json
from theory.sampling import DDIM, initial_noise

FORMAT = "empirical.compare/1"
NULL = "ideal"
MOST = 10**9  # samples or draws
Device = str | torch.device


def sampled(
    denoiser: Denoiser, data: ImageSet, count: int, steps: int, seed: int, label: int | None = None, device: Device = "cpu"
) -> Tensor:
    """Deterministic samples from the noise every model starts from, made on a device and returned on the CPU."""
    noise = initial_noise(denoiser.schedule, (count, *data.images.shape[1:]), seed, device=device)
    return DDIM(denoiser, steps)(noise, label).images.cpu()


def judged(samples: Tensor, data: ImageSet) -> dict:
    """What samples obey, where there is a rule, and what they copy."""
    out = {"memorised": Proportion.of(memorisation(samples, data).memorised)._asdict()}
    if data.rule is not None:
        out["consistency"] = Proportion.of(data.rule.consistent(samples))._asdict()
        out["valid"] = float((data.rule.decode(samples) >= 0).all(1).double().mean())
    return out


def agreement(truth: Tensor, other: Tensor, data: ImageSet) -> dict:
    """Medians over samples of what is measured pair by pair; on data with a rule also labels, and the cells alone."""
    out = {
        f.__name__: Median.of(f(truth, other))._asdict() for f in (pearson_r, r2_pearson, r2_determination)
    }  # NaN, which JSON has not, can't occur: samples are not constant
    if data.rule is not None:
        out["label_agreement"] = label_agreement(data.rule, truth, other)._asdict()
        cells = varying(data)
        out["r2_pearson_cells"] = Median.of(r2_pearson(truth[..., cells][:, :, None], other[..., cells][:, :, None]))._asdict()
    return out


def varying(data: ImageSet) -> Tensor:
    """Pixels that are not the same in all training images, with shape ``(H, W)``."""
    return (data.images != data.images[:1]).any(0).any(0)


class Seen(NamedTuple):
    """What is known of a model: samples, posterior means of the noisy images at each level, and the part of a report on it alone."""

    samples: Tensor
    means: list[Tensor]
    report: dict


class Comparison:
    """Models seen on the same initial noise, with the same steps, and on the same noisy images.

    Args:
        data, schedule: Training set and noise.
        samples: Samples of each model.
        steps: Sampling steps.
        levels: Noise levels, over equal intervals of t.
        draws: Noisy images at each level.
        seed: Seed of all noise.
        label: Class all models are conditioned on.
        device: Where models are evaluated; what is measured of them is measured on the CPU.

    Raises:
        InputError: If a number is too small, or no image has that label.
    """

    def __init__(
        self,
        data: ImageSet,
        schedule: Schedule,
        *,
        samples: int = 1000,
        steps: int = 50,
        levels: int = 8,
        draws: int = 2000,
        seed: int = 0,
        label: int | None = None,
        device: Device = "cpu",
    ) -> None:
        self.device = device
        self.config = {"samples": samples, "steps": steps, "levels": levels, "draws": draws, "seed": seed}
        for (name, value), least in zip(self.config.items(), (2, 1, 1, 2, 0), strict=True):
            if not least <= value <= MOST:
                raise InputError(f"{name} {value}", f"{least} to {MOST}", "correct the option")
        self.data, self.schedule, self.label = data.select(label), schedule, label
        if label is not None:
            self.config["label"] = label
        ideal = Ideal(data, schedule)
        self.times = [(i + 0.5) / levels for i in range(levels)]
        self.noisy = [noisy_images(self.data, schedule, t, draws, seed) for t in self.times]
        self.exact = self._means(ideal)

    def require(self, name: str, model: Denoiser) -> None:
        """Raise `InputError` if a model has another noise schedule."""
        if model.schedule.name != self.schedule.name:
            raise InputError(
                f"model {name!r} with the {model.schedule.name} schedule",
                f"{self.schedule.name}, that of the first",
                "compare like with like",
            )

    def _means(self, model: Denoiser) -> list[Tensor]:
        """Posterior means of the noisy images, on the CPU."""
        return [model.denoise(n.x_t.to(self.device), n.t, self.label).cpu() for n in self.noisy]

    def sampled(self, model: Denoiser) -> Tensor:
        """Samples from the noise that all models start from, on the CPU."""
        return sampled(model, self.data, self.config["samples"], self.config["steps"], self.config["seed"], self.label, self.device)

    def seen(self, name: str, model: Denoiser) -> Seen:
        """Sample a model and evaluate it on the noisy images.

        Raises:
            InputError: If it has another noise schedule.
        """
        self.require(name, model)
        samples = self.sampled(model)
        means = self._means(model)
        excess = [Estimate.of(squared_error(m, e)) for m, e in zip(means, self.exact, strict=True)]
        report = {
            "network": is_network(model),
            "excess": [e.value for e in excess],
            "excess_stderr": [e.stderr for e in excess],
            **judged(samples, self.data),
        }
        return Seen(samples, means, report)

    def pair(self, truth: Seen, other: Seen) -> dict:
        """Agreement of samples, and per level of scores and losses."""
        return {**agreement(truth.samples, other.samples, self.data), "levels": self._levels(truth.means, other.means)}

    def _levels(self, truth: list[Tensor], other: list[Tensor]) -> list[dict]:
        """Mean cosine and mean squared difference of the scores, and the loss gap."""
        out = []
        for i, (a, b) in enumerate(zip(truth, other, strict=True)):
            alpha, sigma = (float(c) for c in self.schedule(self.times[i]))
            first, second = ((alpha * m - self.noisy[i].x_t) / sigma**2 for m in (a, b))
            gap = Gap.of(squared_error(a, self.exact[i]), squared_error(b, self.exact[i]))
            out.append(
                {
                    "t": self.times[i],
                    "ratio": sigma / alpha,
                    "cosine": Estimate.of(cosine(first, second))._asdict(),
                    "score_mse": Estimate.of((first - second).double().square().flatten(1).mean(1))._asdict(),
                    "gap": gap._asdict(),
                }
            )
        return out

    def report(self, models: Mapping[str, Seen]) -> dict:
        """What is written as JSON: ``models.<name>`` with loss per level and what samples obey, and
        ``pairs.<name>`` with the agreement of each with the first."""
        truth, *others = models
        return {
            "format": FORMAT,
            "config": self.config,
            "data": {"name": self.data.name, "fingerprint": self.data.fingerprint},
            "versions": versions(),
            "truth": truth,
            "times": self.times,
            "models": {name: seen.report for name, seen in models.items()},
            "pairs": {name: self.pair(models[truth], models[name]) for name in others},
        }


def compare(models: Mapping[str, Denoiser], data: ImageSet, *, progress: Progress | None = None, **options: int | Device | None) -> dict:
    """Hold every model against the first.

    Args:
        models: Denoisers by name, the truth first; the ideal score is added.
        data: The training set.
        progress: Where to show it.
        options: ``samples``, ``steps``, ``levels``, ``draws``, ``seed`` and ``label``, as in `Comparison`.

    Returns:
        The report (`Comparison.report`).

    Raises:
        InputError: If models don't share a noise schedule, or a number is too small.
    """
    schedule = next(iter(models.values())).schedule
    comparison = Comparison(data, schedule, **options)
    for name, model in models.items():
        comparison.require(name, model)
    models = {**models, **({} if NULL in models else {NULL: Ideal(data, schedule)})}
    task = progress.add_task("comparing", total=len(models)) if progress else None
    seen = {}
    for name, model in models.items():
        seen[name] = comparison.seen(name, model)
        if progress:
            progress.advance(task)
    return comparison.report(seen)


def table(report: dict) -> Table:
    """Agreement of every model with the first."""
    out = Table(title=f"Against {report['truth']}, from the same noise (95% interval)", title_justify="left")
    out.add_column("model", no_wrap=True)
    rule = "consistency" in report["models"][report["truth"]]
    for column in [
        "r2_pearson",
        "r2_determination",
        *(["r2, cells", "same labels", "consistent"] if rule else []),
        "loss gap",
        "memorised",
    ]:
        out.add_column(column, justify="right")
    for name, model in report["models"].items():
        pair = report["pairs"].get(name)
        cells = [_interval(pair["r2_pearson"]), f"{pair['r2_determination']['value']:.3f}"] if pair else ["", ""]
        if rule:
            cells += [_interval(pair["r2_pearson_cells"]) if pair else "", _percent(pair["label_agreement"]) if pair else ""]
            cells.append(_percent(model["consistency"]))
        cells += [_gap(pair["levels"]) if pair else "", _percent(model["memorised"])]
        out.add_row(name, *cells)
    out.caption = f"loss gap: largest over the levels of the loss of {report['truth']} above that of the model, per image"
    out.caption_justify = "left"
    return out


def flags(report: dict) -> list[str]:
    """Sentences on networks that lie below a model: as a theory of that network it is too small."""
    out = []
    for name, pair in report["pairs"].items():
        below = [x for x in pair["levels"] if x["gap"]["below"]]
        theory = name != NULL and not report["models"][name]["network"]
        if below and theory and report["models"][report["truth"]]["network"]:
            worst = min(below, key=lambda x: x["gap"]["value"])
            gap = f"{-worst['gap']['value']:.2g} ± {worst['gap']['stderr']:.1g}"
            place = f"{gap} at sigma/alpha {worst['ratio']:.2f}"
            out.append(f"{report['truth']} lies below {name} by {place}: its family is larger, or {name} not yet the optimum")
    return out


def _interval(x: dict) -> str:
    return f"{x['value']:.3f} [{x['low']:.3f}, {x['high']:.3f}]"


def _percent(x: dict) -> str:
    return f"{100 * x['value']:.1f}% [{100 * x['low']:.1f}, {100 * x['high']:.1f}]"


def _gap(levels: list[dict]) -> str:
    worst = max(levels, key=lambda x: abs(x["gap"]["value"]))["gap"]
    return f"{worst['value']:+.3f} ± {worst['stderr']:.3f}"


def titles(specs: list[str]) -> list[str]:
    """Short names: the last part of a path, all of it where that would not tell two models apart."""
    short = [Path(s).name or s if "/" in s and ":" not in s else s for s in specs]
    if len(set(specs)) < len(specs):
        raise InputError(f"models {', '.join(specs)}", "different ones", "name each once")
    return [a if short.count(a) == 1 and a != NULL else b for a, b in zip(short, specs, strict=True)]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = Parser.of(
        "empirical.compare", "Hold models against the first one: samples from the same noise, scores and losses on the same noisy images."
    )
    p.add_argument(
        "models", nargs="+", metavar="MODEL", help="training directory, solution (runs/toy/attention/full) or machine; the truth first"
    )
    p.add_argument("--dataset", required=True, help="the training set all belong to")
    p.add_argument("--samples", type=int, default=1000, help="samples of each model")
    p.add_argument("--steps", type=int, default=50, help="sampling steps")
    p.add_argument("--levels", type=int, default=8, help="noise levels")
    p.add_argument("--draws", type=int, default=2000, help="noisy images per level")
    p.add_argument("--seed", type=int, default=0, help="seed of all noise")
    p.add_argument("--label", type=int, help="condition all models on this class")
    p.add_device()
    p.add_argument("--out", type=Path, help="JSON file to write")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 for bad input, 130 when interrupted."""
    a = parser().parse_args(argv)
    return guarded(lambda: _run(a), "choose another --out", "nothing was written")


def _run(a: argparse.Namespace) -> int:
    console, device = console_of(), find_device(a.device)
    if a.out is not None:
        prepare_file(a.out, FORMAT)
    data = load(a.dataset)
    opened: dict[str, Denoiser] = {}
    for name, spec in zip(titles(a.models), a.models, strict=True):  # machines take the noise schedule of the first
        opened[name] = open_model(spec, data, next(iter(opened.values())).schedule if opened else None, device)
    with live(console) as progress:
        options = {"samples": a.samples, "steps": a.steps, "levels": a.levels, "draws": a.draws, "seed": a.seed, "label": a.label}
        options["device"] = device
        report = compare(opened, data, **options, progress=progress)
    if a.out is not None:
        write_json(a.out, report)
    console.print(table(report))
    for line in flags(report):
        console.print(line, highlight=False)
    if a.out is not None:
        console.print(f"written to {a.out}", highlight=False)
    return 0


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    sys.exit(main())
