"""``python -m empirical.reproduce toy|digits``: train the networks, compute their theories, and hold one against the other.

``toy``: the five models of arXiv 2506.17324 over several seeds, against the theory of each and of every other.
``digits``: ResNet and UNet with zero and circular padding, against calibrated ELS, LS and IS, as in table 2
of arXiv 2412.20292.

Everything lands in one directory: ``train/`` with the checkpoints, ``theory/`` with the solutions,
``samples.safetensors`` with the first samples of every model, all from the same noise, and ``report.json``.
An interrupted run goes on where it was when the command is repeated.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from empirical.calibrate import calibrate, default_sizes
from empirical.checkpoint import NAME, Checkpoint
from empirical.compare import NULL, Comparison
from empirical.metrics import sensitivity
from empirical.train import Config, DivergedError, stop_signal, train
from empirical.training.memory import keep_freed_memory
from theory.calibrated import FORMAT as SCHEDULE_FORMAT
from theory.calibrated import save_patch_schedule
from theory.commandline import Parser, find_device, guarded
from theory.data import ImageSet, load
from theory.data.toy import Toy
from theory.errors import InputError, choices
from theory.lock import writing
from theory.machines import EquivariantLocal, Ideal, Local
from theory.plain import PlainConsole
from theory.results import ResultDirectory, prepare_file, read_json, versions, write_json, write_tensors
from theory.solve import run as run_theory
from theory.stationarity import SolvedScore

FORMAT = "empirical.reproduce/1"
SAMPLES = "samples.safetensors"


@dataclass(frozen=True)
class Model:
    """A model of the toy table.

    Attributes:
        title: Its name there.
        theory: The theory of it.
        poster: What the poster prints.
        share: Share of the steps; networks whose optimum is easily found need fewer.
        batch: Share of the images in a step.
        decay: Learning rate over the steps.
        start: The network whose weights it begins with. Alone, networks with attention stay where the CNN ends for many
            thousands of steps; with a trunk that knows its patch (`TRUNK`) they leave that plateau much sooner.
    """

    title: str
    theory: str
    poster: float | None
    share: float = 1.0
    batch: float = 0.5
    decay: str = "tail"
    start: str | None = None


TRUNK = "patch"
FIRST = Model("patch", "", None, share=0.08)  # trained before all others
TOY = {
    "cnn": Model("CNN", "els", 10.88, share=0.24),
    "literal": Model("literal", "literal", None, share=0.24),
    "identity": Model("identity", "identity", 25.44, share=0.4, start=TRUNK),
    "top1": Model("top-1", "top1_identity", 21.64, share=0.24, start="identity"),
    "attention": Model("attention", "full", 64.03, batch=1, decay="cosine", start=TRUNK),
}
EVALUATIONS = 40  # points of a curve over the steps
AGREEMENT = ("r2_pearson", "r2_pearson_cells", "label_agreement")
POSTER_RANDOM = 5.38  # "random" as printed there; random colours are consistent with 7.715%
FULL_STEPS = {"toy": 20_000, "digits": 10_000}
SMALLEST = {"toy": 60, "digits": 60}
KEPT = 500  # samples of each model that are written
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
    return {key: value for key, value in config.items() if key not in ("every", "samples")}


def with_starts(chosen: list[str]) -> list[str]:
    """Models of the toy table and those of it they start from, in the order they are trained."""
    wanted = set(chosen)
    for name in reversed(TOY):
        if name in wanted and TOY[name].start in TOY:
            wanted.add(TOY[name].start)
    return [name for name in TOY if name in wanted]


def toy(job: Job) -> dict:
    """Train, solve and compare the toy models; returns the report."""
    data = load(job.dataset)
    if not isinstance(data.rule, Toy):
        raise InputError(
            f"--dataset {job.dataset}", "the toy data, such as toy:layout=strip", "choose another data set, or reproduce digits"
        )
    ResultDirectory.require_own(job.out / "theory")
    config = {
        "dataset": job.dataset,
        "target": job.target,
        "rate": job.rate,
        "every": max(20, job.scale.steps // EVALUATIONS),
        "samples": job.scale.watched,
        "focus": 0.5,
    }
    models, networks = with_starts(job.models), {}
    families = [TOY[model].theory for model in models if TOY[model].theory != "els"]
    if "solved" in job.scale.theory:  # before hours of training
        for name in families:
            SolvedScore.load(Path(job.scale.theory["solved"]) / name, data)

    def trained(name: str, seed: int, start: Checkpoint | None = None) -> Checkpoint:
        model = FIRST if name == TRUNK else TOY[name]
        steps, batch = max(1, round(job.scale.steps * model.share)), max(1, round(job.batch * model.batch))
        options = config | {"steps": steps, "batch": batch, "decay": model.decay}
        return job.trained(Config(model=name, seed=seed, **options), data, f"{name}-{seed}", start)

    for seed in range(job.scale.seeds):
        starts: dict[str | None, Checkpoint | None] = {None: None}
        if any(TOY[model].start == TRUNK for model in models):
            starts[TRUNK] = trained(TRUNK, seed)
        for model in models:
            starts[model] = networks[model, seed] = trained(model, seed, starts[TOY[model].start])
    report = _solved(job, families)
    theories = {"els": EquivariantLocal(data, patch_size=data.patch_size)}
    theories |= {name: SolvedScore.load(job.out / "theory" / "attention" / name, data) for name in families}
    theories[NULL] = Ideal(data, theories["els"].schedule)
    comparison = Comparison(
        data, theories["els"].schedule, samples=job.scale.samples, steps=job.scale.sampling, draws=job.scale.draws
    )  # fmt: skip
    seen = {name: comparison.seen(name, theory) for name, theory in theories.items()}
    job.say(f"sampled {len(theories)} theories")
    trained, comparisons = {}, {}
    for (model, seed), checkpoint in networks.items():
        name = f"{model}-{seed}"
        trained[model, seed] = comparison.seen(name, checkpoint.denoiser())
        comparisons[name] = comparison.report({"network": trained[model, seed], **seen})
        job.say(f"compared {model} seed {seed} with {len(theories)} theories")
    kept = {f"theory.{name}": s for name, s in seen.items()} | {f"network.{m}-{seed}": s for (m, seed), s in trained.items()}
    write_tensors(job.out / SAMPLES, {name: s.samples[:KEPT] for name, s in kept.items()})
    pairs = list(combinations(range(job.scale.seeds), 2))
    twins = {m: [comparison.pair(trained[m, i], trained[m, j]) for i, j in pairs] for m in models}
    return {
        "format": FORMAT,
        "study": "toy",
        "scale": vars(job.scale),
        "config": config | {"batch": job.batch},
        "training": {model: asdict(TOY[model]) for model in models},
        "data": {"name": data.name, "fingerprint": data.fingerprint},
        "versions": versions(),
        "random": data.rule.baseline,
        "rows": {model: _row(model, comparisons, job.scale.seeds, twins[model]) for model in models},
        "certified": {name: report["attention"][name]["certified"] for name in families},
        "curves": {f"{model}-{seed}": c.history for (model, seed), c in networks.items()},
        "comparisons": comparisons,
    }


def _solved(job: Job, families: list[str]) -> dict:
    """Solutions of all families, and what `theory.solve` reports of them."""
    out = job.out / "theory"
    if (out / "report.json").is_file() and not (out / "progress.json").is_file():
        done = read_json(out / "report.json")
        if set(families) <= set(done["attention"]) and all(done["config"][k] == v for k, v in job.scale.theory.items()):
            return done
    options = {"machines": ("equivariant_local",), "families": tuple(families), "samples": job.scale.samples, **job.scale.theory}
    return run_theory(dataset=job.dataset, out=out, resume=True, device=job.device.type, **options)


def _row(model: str, comparisons: dict[str, dict], seeds: int, twins: list[dict]) -> dict:
    """One line of the table: the network's mean over seeds, its theory, and agreement with every theory and among seeds."""
    mine = [comparisons[f"{model}-{seed}"] for seed in range(seeds)]
    own = TOY[model].theory
    shares = [c["models"]["network"]["consistency"]["value"] for c in mine]
    agreement = {}
    for other in mine[0]["pairs"]:
        pairs = [c["pairs"][other] for c in mine]
        agreement[other] = {
            **_means(pairs),
            "gap": [statistics.mean(p["levels"][i]["gap"]["value"] for p in pairs) for i in range(len(mine[0]["times"]))],
            "below": [any(p["levels"][i]["gap"]["below"] for p in pairs) for i in range(len(mine[0]["times"]))],
        }
    theory = mine[0]["models"][own]["consistency"]
    return {
        "title": TOY[model].title,
        "theory_name": own,
        "poster": TOY[model].poster,
        "theory": theory,
        "network": {"mean": statistics.mean(shares), "seeds": shares, "spread": statistics.stdev(shares) if seeds > 1 else None},
        "difference": statistics.mean(shares) - theory["value"],
        "nearest": max((n for n in agreement if n != NULL), key=lambda n: agreement[n]["label_agreement"]),
        "agreement": agreement,
        "twins": _means(twins),
    }


def _means(pairs: list[dict]) -> dict:
    """Agreement of several pairs of models, on average; empty without any."""
    return {key: statistics.mean(p[key]["value"] for p in pairs) for key in AGREEMENT} if pairs else {}


def toy_tables(report: dict) -> list[Table]:
    """The table of the poster beside theory and network, and the matrix of agreement."""
    main = Table(
        title=f"Consistent samples on {report['data']['name']}, in % ({report['scale']['sampling']} sampling steps)", title_justify="left"
    )
    for column in (
        "model",
        "poster",
        "theory (95% interval)",
        "network, mean of seeds",
        "r2 with its theory",
        "same labels",
        "nearest theory",
    ):
        main.add_column(column, justify="left" if column in ("model", "nearest theory") else "right")
    main.add_row("random", f"{POSTER_RANDOM}", f"{100 * report['random']:.2f} (exact)", "", "", "", "")
    for row in report["rows"].values():
        theory, network, own = row["theory"], row["network"], row["agreement"][row["theory_name"]]
        spread = f" ± {100 * network['spread']:.1f}" if network["spread"] is not None else ""
        main.add_row(
            row["title"], f"{row['poster']}" if row["poster"] else "",
            f"{100 * theory['value']:.1f} [{100 * theory['low']:.1f}, {100 * theory['high']:.1f}]{_doubt(report, row['theory_name'])}",
            f"{100 * network['mean']:.1f}{spread}", f"{own['r2_pearson']:.3f}", f"{100 * own['label_agreement']:.1f}%", row["nearest"],
        )  # fmt: skip
    gaps = Table(
        title="Loss of the network above its theory's optimum, per image (* below it by more than 3 standard errors)", title_justify="left"
    )
    times = next(iter(report["comparisons"].values()))["times"]
    for column in ("network", *(f"t {t:.3f}" for t in times)):
        gaps.add_column(column, justify="left" if column == "network" else "right")
    for row in report["rows"].values():
        own = row["agreement"][row["theory_name"]]
        gaps.add_row(row["title"], *(f"{g:+.3f}{'*' if b else ''}" for g, b in zip(own["gap"], own["below"], strict=True)))
    return [
        main,
        _matrix(report, "label_agreement", 100, "Samples in which network (down) and theory (across) have the same eight colours, in %"),
        _matrix(report, "r2_pearson_cells", 1, "Median r2 over the pixels that vary, network (down) and theory (across)"),
        gaps,
    ]


def _doubt(report: dict, theory: str) -> str:
    """A word where the certificate of a theory failed."""
    return "" if report["certified"].get(theory, True) else " (not certified)"


def _matrix(report: dict, key: str, unit: float, title: str) -> Table:
    """Agreement of every network with every theory, and of two seeds of a network with each other."""
    out = Table(title=title, title_justify="left")
    rows = report["rows"].values()
    names = list(next(iter(rows))["agreement"])
    for column in ("network", *names, "another seed"):
        out.add_column(column, justify="left" if column == "network" else "right")
    digits = 1 if unit == 100 else 3
    for row in rows:
        cells = [f"{unit * row['agreement'][n][key]:.{digits}f}" for n in names]
        out.add_row(row["title"], *cells, f"{unit * row['twins'][key]:.{digits}f}" if row["twins"] else "")
    return out


DIGITS = {
    "resnet-zeros": {"model": "resnet", "padding": "zeros", "layers": 3},
    "resnet-circular": {"model": "resnet", "padding": "circular", "layers": 3},
    "unet-zeros": {"model": "unet", "padding": "zeros", "hidden": 32},
    "unet-circular": {"model": "unet", "padding": "circular", "hidden": 32},
}


def digits(job: Job) -> dict:
    """Train, calibrate and compare ResNet and UNet; returns the report."""
    data = load(job.dataset)
    for name in job.models:
        prepare_file(job.out / f"{name}.json", SCHEDULE_FORMAT)
    rows, curves, samples = {}, {}, {}
    for name in job.models:
        config = Config(
            dataset=job.dataset,
            target=job.target,
            rate=job.rate,
            steps=job.scale.steps,
            every=max(1, job.scale.steps // 10),
            batch=job.batch,
            samples=64,
            **DIGITS[name],
        )
        checkpoint = job.trained(config, data, name)
        rows[name], drawn = _held(job, name, checkpoint, data)
        samples |= {f"{name}.{model}": x for model, x in drawn.items()}
        curves[name] = checkpoint.history
        job.say(f"compared {name}: patch sizes {rows[name]['patch_sizes']}")
    write_tensors(job.out / SAMPLES, samples)
    return {
        "format": FORMAT, "study": "digits", "scale": vars(job.scale), "data": {"name": data.name, "fingerprint": data.fingerprint},
        "versions": versions(), "rows": rows, "curves": curves,
    }  # fmt: skip


def _held(job: Job, name: str, checkpoint: Checkpoint, data: ImageSet) -> tuple[dict, dict[str, Tensor]]:
    """A network held against its calibrated machines, or what an earlier run found: its row, and samples of all models."""
    full = job.scale.budget >= FULL
    effort = {"levels": 10, "draws": 32} if full else {"levels": 3, "draws": 4}
    drawn = {"samples": 200 if full else 20, "steps": 20 if full else 5, "levels": effort["levels"], "draws": job.scale.draws // 20}
    identity = {"network": checkpoint.origin(), "data": data.fingerprint, "effort": effort, "drawn": drawn, "versions": versions()}
    part, tensors = job.out / "compared" / f"{name}.json", job.out / "compared" / f"{name}.safetensors"
    if part.is_file() and (done := read_json(part)).get("identity") == identity:
        try:
            return done["row"], load_file(tensors)
        except (OSError, SafetensorError) as error:
            raise InputError(f"file {tensors} ({type(error).__name__})", "whole", f"remove {part} and repeat the command") from error
    network, border = checkpoint.denoiser(), DIGITS[name]["padding"]
    schedule, detail = calibrate(network, data, default_sizes(network, data, border), border=border, progress=job.progress, **effort)
    save_patch_schedule(job.out / f"{name}.json", schedule, {"network": name, **detail})
    models = {
        name: network,
        "els": EquivariantLocal(data, network.schedule, patch_size=schedule, border=border),
        "ls": Local(data, network.schedule, patch_size=schedule, border=border),
        NULL: Ideal(data, network.schedule),
    }
    comparison = Comparison(data, network.schedule, **drawn)
    seen = {model: comparison.seen(model, denoiser) for model, denoiser in models.items()}
    seeing = sensitivity(network, comparison.noisy[effort["levels"] // 2].x_t[:64], comparison.times[effort["levels"] // 2])
    row = {
        "patch_sizes": [size[0] for size in schedule.sizes],
        "receptive_field": network.receptive_field,
        "sensitivity": {"t": comparison.times[effort["levels"] // 2], "pixels": seeing.tolist()},
        "calibration": detail,
        "comparison": comparison.report(seen),
    }
    samples = {("network" if model == name else model): s.samples for model, s in seen.items()}
    part.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(tensors, samples)
    write_json(part, {"identity": identity, "row": row})  # written last: its presence means both are whole
    return row, samples


def digits_tables(report: dict) -> list[Table]:
    """Medians over samples, as in table 2 of arXiv 2412.20292."""
    out = Table(title=f"{report['data']['name']}: median r2_pearson over samples (95% interval)", title_justify="left")
    for column in ("network", "ELS", "LS", "IS", "pearson_r with ELS"):
        out.add_column(column, justify="left" if column == "network" else "right")
    for name, row in report["rows"].items():
        pairs = row["comparison"]["pairs"]
        show = [f"{x['value']:.3f} [{x['low']:.3f}, {x['high']:.3f}]" for x in (pairs[k]["r2_pearson"] for k in ("els", "ls", NULL))]
        out.add_row(name, *show, f"{pairs['els']['pearson_r']['value']:.3f}")
    return [out]


STUDIES = {"toy": (toy, toy_tables, "toy", TOY), "digits": (digits, digits_tables, "digits", DIGITS)}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = Parser(
        prog="python -m empirical.reproduce",
        description="Train networks, compute their theories, and write how well theory predicts network. "
        "Stopped, it goes on where it was when the command is repeated.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    p.add_argument("study", choices=list(STUDIES), help="what to reproduce")
    p.add_argument("--budget", type=float, default=1.0, help="1 for everything (hours on 2 cores), .01 for a smoke run")
    p.add_argument("--steps", type=int, help="training steps, of those that need most; by the budget if not given")
    p.add_argument("--seeds", type=int, help="networks of each kind (toy); by the budget if not given")
    names = "; ".join(f"{study}: {', '.join(options[3])}" for study, options in STUDIES.items())
    p.add_argument("--models", nargs="+", metavar="NAME", help=f"only some, and those they start from; {names}")
    p.add_argument("--dataset", help="another data set of the same kind, such as toy:layout=strip or mnist5k")
    p.add_argument("--solved", type=Path, metavar="DIR", help="take the theories of attention from solutions saved in a directory (toy)")
    p.add_argument("--target", default="posterior", help="trained towards: clean, or posterior (the mean of x_0 given x_t)")
    p.add_argument("--rate", type=float, default=2e-3, help="learning rate")
    p.add_argument("--batch", type=int, default=128, help="images in a training step; most networks of the toy take half")
    p.add_argument("--device", default="auto", help="auto, cpu or cuda")
    p.add_argument("--out", type=Path, help="output directory; runs/reproduce-STUDY if not given")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 for bad input, 130 when interrupted."""
    a = parser().parse_args(argv)
    out = a.out or Path("runs") / f"reproduce-{a.study}"
    return guarded(
        lambda: _alone(a, out),
        "free space or choose another --out; the same command goes on",
        f"the same command goes on from what {out} holds",
    )


def _alone(a: argparse.Namespace, out: Path) -> int:
    """The work, under the lock on its directory; the parts in ``train`` and ``theory`` have locks of their own."""
    if out.is_file():
        raise InputError(f"--out {out}, a file", "a directory", "choose another --out")
    with writing(out):
        return _run(a, out)


def _require_own(out: Path, study: str) -> None:
    """Refuse a directory in which another study, or something else, has its report."""
    prepare_file(out / "report.json", FORMAT)
    if (out / "report.json").exists() and read_json(out / "report.json").get("study") != study:
        raise InputError(f"--out {out}, with another study", "a directory of this study, or a new one", "choose another --out")


def _run(a: argparse.Namespace, out: Path) -> int:
    console = PlainConsole(width=None if sys.stdout.isatty() else 150)
    columns = (TextColumn("{task.description:24}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    study, tables, dataset, models = STUDIES[a.study]
    chosen = list(dict.fromkeys(a.models or models))
    for name in chosen:
        if name not in models:
            raise InputError(f"--models {name}", choices(models), "choose some of these")
    if a.study == "digits" and a.seeds is not None:
        raise InputError(f"--seeds {a.seeds} with digits", "no --seeds: one network of each kind is trained", "leave it out")
    if a.study == "digits" and a.solved is not None:
        raise InputError(f"--solved {a.solved} with digits", "no --solved: no theory of attention is needed", "leave it out")
    if a.batch < 1:
        raise InputError(f"--batch {a.batch}", "at least 1", "correct the option")
    keep_freed_memory()
    scale, device = Scale.of(a.study, a.budget, a.steps, a.seeds), find_device(a.device)
    if a.solved is not None:
        scale = replace(scale, theory={**scale.theory, "solved": str(a.solved)})
    _require_own(out, a.study)
    with stop_signal() as stopped, Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        job = Job(out, scale, device, a.dataset or dataset, chosen, a.target, a.rate, a.batch, stopped, progress)
        try:
            report = study(job)
        except DivergedError as error:
            print(f"error: training diverged at step {error}; lower --rate; {out} keeps what is finished", file=sys.stderr)
            return 1
    write_json(out / "report.json", report)
    for table in tables(report):
        console.print(table)
    console.print(f"written to {out}: report.json, {SAMPLES}, train/" + (", theory/" if a.study == "toy" else ""), highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
