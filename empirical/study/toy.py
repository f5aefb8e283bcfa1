"""The five models of arXiv 2506.17324 over several seeds, against the theory of each and of every other."""

import statistics
from dataclasses import asdict, dataclass
from itertools import combinations

from empirical.checkpoint import Checkpoint
from empirical.compare import NULL, Comparison
from empirical.study.job import FORMAT, KEPT, SAMPLES, Job
from empirical.study.solutions import require_solutions, solved
from empirical.train import Config
from theory.data import ImageSet, load
from theory.data.toy import Toy
from theory.errors import InputError
from theory.machines import EquivariantLocal, Ideal
from theory.results import ResultDirectory, versions, write_tensors
from theory.stationarity import SolvedScore

TRUNK = "patch"
EVALUATIONS = 40  # points of a curve over the steps
AGREEMENT = ("r2_pearson", "r2_pearson_cells", "label_agreement")


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
        start: The network whose weights it begins with. Alone and at all noise levels, networks with attention stay where the CNN ends for
            many thousands of steps; with a trunk that knows its patch (`TRUNK`) they leave that plateau much sooner.
        begin: The noise level, as sigma/alpha, that training begins at: the other way to leave it, and for a head through an argmax the way
            not to fall back to the CNN, as one of three networks did over all levels at once.
    """

    title: str
    theory: str
    poster: float | None
    share: float = 1.0
    batch: float = 0.5
    decay: str = "tail"
    start: str | None = None
    begin: float | None = None


FIRST = Model("patch", "", None, share=0.08)  # trained before all others
TOY = {
    "cnn": Model("CNN", "els", 10.88, share=0.24),
    "literal": Model("literal", "literal", None, share=0.24),
    "identity": Model("identity", "identity", 25.44, share=0.4, start=TRUNK),
    "top1": Model("top-1", "top1_identity", 21.64, share=0.24, start="identity", begin=1.2),
    "attention": Model("attention", "full", 64.03, share=0.75, begin=1.2),
}


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
    models = with_starts(job.models)
    families = [TOY[model].theory for model in models if TOY[model].theory != "els"]
    require_solutions(job, families, data)
    networks = _networks(job, data, config, models)
    report = solved(job, families)
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


def _networks(job: Job, data: ImageSet, config: dict, models: list[str]) -> dict[tuple[str, int], Checkpoint]:
    """Every network of every seed, trained as far as it is missing."""
    networks: dict[tuple[str, int], Checkpoint] = {}

    def trained(name: str, seed: int, start: Checkpoint | None = None) -> Checkpoint:
        model = FIRST if name == TRUNK else TOY[name]
        steps, batch = max(1, round(job.scale.steps * model.share)), max(1, round(job.batch * model.batch))
        options = config | {"steps": steps, "batch": batch, "decay": model.decay, "begin": model.begin}
        return job.trained(Config(model=name, seed=seed, **options), data, f"{name}-{seed}", start)

    for seed in range(job.scale.seeds):
        starts: dict[str | None, Checkpoint | None] = {None: None}
        if any(TOY[model].start == TRUNK for model in models):
            starts[TRUNK] = trained(TRUNK, seed)
        for model in models:
            starts[model] = networks[model, seed] = trained(model, seed, starts[TOY[model].start])
    return networks


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
