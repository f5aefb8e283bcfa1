"""Where attention changes the optimum on real images, by how much, and whether networks do it: digits with and without a layer of it.

Networks of one residual trunk that sees `SIDE` pixels, without attention and with it, over several seeds; the theories of both, and all
others, for the same patch and border at every noise level. Losses on the same noisy images, samples from the same noise, and attention
weights of network and theory on the same noisy images.
"""

import statistics
from itertools import combinations

import torch
from rich.table import Table
from torch import Tensor

from empirical.checkpoint import Checkpoint
from empirical.compare import NULL, Comparison, Seen
from empirical.study.handover import handover
from empirical.study.job import FORMAT, KEPT, SAMPLES, Job
from empirical.study.maps import alike, attention_of, example
from empirical.study.solutions import require_solutions, solved
from empirical.train import Config
from theory.data import ImageSet, load
from theory.errors import InputError
from theory.machines import EquivariantLocal, Ideal, Local
from theory.results import ResultDirectory, versions, write_tensors
from theory.stationarity import SolvedScore

LAYERS = 2
SIDE = 2 * LAYERS + 1
NETWORK = {"trunk": "resnet", "layers": LAYERS, "decay": "tail", "focus": 0.5}
ATTENTION = {"local": ("without attention", "els", "cnn"), "attention": ("with attention", "full", "attention")}  # title, theory, network
FAMILIES = ["literal", "identity", "full"]
AGREEMENT = ("r2_pearson", "pearson_r", "r2_determination")
MEASURED = {"samples": 10, "draws": 100, "steps": 5}  # by `theory.solve` itself, beside what is compared here
MAPS = 200  # noisy images of each level on which attention weights are compared


def attention(job: Job) -> dict:
    """Train, solve and compare; returns the report."""
    data = load(job.dataset)
    if data.rule is not None:
        raise InputError(f"--dataset {job.dataset}", "images without a rule, such as digits", "choose another, or reproduce toy")
    ResultDirectory.require_own(job.out / "theory")
    require_solutions(job, FAMILIES, data)
    networks = {(m, seed): _trained(job, data, m, seed) for seed in range(job.scale.seeds) for m in job.models}
    told = solved(job, FAMILIES, patch_size=str(SIDE), **MEASURED)
    theories = {name: SolvedScore.load(job.out / "theory" / "attention" / name, data) for name in FAMILIES}
    schedule = theories["full"].schedule
    window = {"patch_size": SIDE, "border": "zeros"}
    closed = {"els": EquivariantLocal(data, schedule, **window), "ls": Local(data, schedule, **window)}
    theories = {**closed, **theories, NULL: Ideal(data, schedule)}
    drawn = {"samples": min(KEPT, job.scale.samples), "steps": job.scale.sampling, "draws": job.scale.draws}
    comparison = Comparison(data, schedule, **drawn)
    seen = {}
    for name, theory in theories.items():
        seen[name] = comparison.seen(name, theory)
        job.say(f"sampled {name}")
    trained, comparisons, maps, handed = {}, {}, {}, {}
    for (model, seed), checkpoint in networks.items():
        name, network = f"{model}-{seed}", checkpoint.denoiser()
        trained[model, seed] = comparison.seen(name, network)
        comparisons[name] = comparison.report({"network": trained[model, seed], **seen})
        if model == "attention":
            maps[name] = [_maps(theories["full"], network, n.x_t[:MAPS], n.t) for n in comparison.noisy]
        if seed == 0:
            own = ATTENTION[model][1]
            handed[model] = handover(comparison, network, theories[own], seen[own].samples, _ratios(comparison))
        job.say(f"compared {name} with {len(theories)} theories")
    kept = {f"theory.{name}": s for name, s in seen.items()} | {f"network.{m}-{seed}": s for (m, seed), s in trained.items()}
    tensors = {name: s.samples for name, s in kept.items()}
    shown = None
    if maps:
        shown, tensors_shown = example(comparison, theories, seen, trained["attention", 0], networks["attention", 0].denoiser())
        tensors |= tensors_shown
    write_tensors(job.out / SAMPLES, tensors)
    return {
        "format": FORMAT, "study": "digits-attention", "scale": vars(job.scale), "config": NETWORK | {"batch": job.batch, "rate": job.rate},
        "patch": SIDE, "data": {"name": data.name, "fingerprint": data.fingerprint}, "versions": versions(),
        "rows": {m: _row(m, comparison, comparisons, seen, trained, job.scale.seeds) for m in job.models},
        "losses": {name: _losses(s) for name, s in seen.items()}, "ratios": _ratios(comparison),
        "certified": {name: told["attention"][name]["certified"] for name in FAMILIES},
        "converged": {name: theories[name].converged for name in FAMILIES},
        "images": {name: theories[name].descent.get("images") for name in FAMILIES},
        "handover": handed, "maps": maps, "example": shown, "curves": {f"{m}-{seed}": c.history for (m, seed), c in networks.items()},
        "comparisons": comparisons,
    }  # fmt: skip


def _trained(job: Job, data: ImageSet, model: str, seed: int) -> Checkpoint:
    config = Config(
        dataset=job.dataset, model=ATTENTION[model][2], target=job.target, rate=job.rate, steps=job.scale.steps, seed=seed,
        every=max(1, job.scale.steps // 10), batch=job.batch, samples=2, **NETWORK,
    )  # fmt: skip
    return job.trained(config, data, f"{model}-{seed}")


def _maps(theory: SolvedScore, network, x_t: Tensor, t: float) -> dict:
    """How alike attention weights of network and theory are on the same noisy images, beside those on different ones."""
    return alike(theory.split(x_t, t).attention, attention_of(network, x_t, t))


def _ratios(comparison: Comparison) -> list[float]:
    alpha, sigma = comparison.schedule(torch.tensor(comparison.times, dtype=torch.float64))
    return (sigma / alpha).tolist()


def _losses(seen: Seen) -> dict:
    """Loss above that of the ideal score at each level."""
    return {"excess": seen.report["excess"], "stderr": seen.report["excess_stderr"]}


def _row(model: str, comparison: Comparison, comparisons: dict, seen: dict[str, Seen], trained: dict, seeds: int) -> dict:
    """One kind of network: mean over seeds of its losses and of its agreement with every theory, and that of its seeds with each other."""
    title, own, _ = ATTENTION[model]
    mine = [comparisons[f"{model}-{seed}"] for seed in range(seeds)]
    twins = [comparison.pair(trained[model, i], trained[model, j]) for i, j in combinations(range(seeds), 2)]
    agreement = {}
    for other in seen:
        pairs = [c["pairs"][other] for c in mine]
        levels = [[p["levels"][i]["gap"] for p in pairs] for i in range(len(comparison.times))]
        agreement[other] = {
            **_means(pairs),
            "gap": [statistics.mean(g["value"] for g in level) for level in levels],
            "below": [any(g["below"] for g in level) for level in levels],
        }
    losses = [_losses(trained[model, seed]) for seed in range(seeds)]
    return {
        "title": title,
        "theory_name": own,
        "losses": losses,
        "nearest": max(agreement, key=lambda n: agreement[n]["r2_pearson"]),
        "agreement": agreement,
        "twins": _means(twins),
    }


def _means(pairs: list[dict]) -> dict:
    """Agreement of several pairs of models, on average, with the interval of the first; empty without any."""
    if not pairs:
        return {}
    intervals = {f"{key}_interval": [pairs[0][key]["low"], pairs[0][key]["high"]] for key in AGREEMENT}
    return {key: statistics.mean(p[key]["value"] for p in pairs) for key in AGREEMENT} | intervals


def attention_tables(report: dict) -> list[Table]:
    """Losses at each level, theories and networks side by side; median r2 of samples; attention weights."""
    losses = Table(title=f"{report['data']['name']}, patch {report['patch']}: loss above the ideal score's", title_justify="left")
    for column in ("", *(f"{r:.2f}" for r in report["ratios"])):
        losses.add_column(column, justify="right" if column else "left")
    for name, x in report["losses"].items():
        if name != NULL:
            losses.add_row(name, *(f"{v:.3f}" for v in x["excess"]))
    for row in report["rows"].values():
        seeds = [x["excess"] for x in row["losses"]]
        losses.add_row(f"network {row['title']}", *(f"{statistics.mean(v):.3f}" for v in zip(*seeds, strict=True)))
    names = list(report["losses"])
    pairs = Table(title="Median r2 of samples, network (down) and theory (across)", title_justify="left")
    for column in ("network", *names, "another seed"):
        pairs.add_column(column, justify="left" if column == "network" else "right")
    for row in report["rows"].values():
        twin = f"{row['twins']['r2_pearson']:.3f}" if row["twins"] else ""
        pairs.add_row(row["title"], *(f"{row['agreement'][n]['r2_pearson']:.3f}" for n in names), twin)
    maps = Table(title="Correlation of attention weights, network and theory (on different images)", title_justify="left")
    for column in ("network", *(f"{r:.2f}" for r in report["ratios"])):
        maps.add_column(column, justify="left" if column == "network" else "right")
    for name, levels in report["maps"].items():
        maps.add_row(name, *(f"{x['correlation']:.2f} ({x['null']:.2f})" for x in levels))
    return [losses, pairs, _handed(report), *([maps] if report["maps"] else [])]


def _handed(report: dict) -> Table:
    """Agreement where the network makes a part of each sample."""
    table = Table(title="Median r2 with samples of the own theory, where that serves below sigma/alpha (and above)", title_justify="left")
    levels = next(iter(report["handover"].values()))
    for column in ("network", *(f"{level['ratio']:.2f}" for level in levels)):
        table.add_column(column, justify="left" if column == "network" else "right")
    for model, found in report["handover"].items():
        cells = (f"{x['network_above']['value']:.3f} ({x['network_below']['value']:.3f})" for x in found)
        table.add_row(report["rows"][model]["title"], *cells)
    return table
