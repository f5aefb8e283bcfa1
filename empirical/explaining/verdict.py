"""From samples and posterior means of all models to numbers, a ranking, and sentences."""

import torch
from torch import Tensor

from empirical.explaining.theories import NEAREST, NULL, title
from empirical.metrics import Median, cosine, pearson_r, r2_determination, r2_pearson
from theory.data.imageset import ImageSet
from theory.metrics import Estimate, Proportion, memorisation, squared_error
from theory.noise import Schedule

ALIKE = 0.95  # median r2 from which on a theory is said to predict a network
POOR = 0.5
VERBS = {
    False: ("predicts", "comes nearest to", "is the nearest, and far from"),
    True: ("predict", "come nearest to", "are the nearest, and far from"),
}
ROUNDING = 1e-5  # of the variance
BORDER = 1.5  # times as much at the border as inside, from which on that is said


def median(values: Tensor) -> dict | None:
    """Median and interval of what can be told; None where an image was constant."""
    values = values[~values.isnan()]
    return Median.of(values)._asdict() if len(values) else None


def rows(samples: dict[str, Tensor], means: dict[str, Tensor], times: list[float], noise: Schedule, noisy: list[Tensor]) -> list[dict]:
    """A row for every theory, the best first: agreement of samples, and of scores and denoised images at each level.

    Args:
        samples: Of the network (``network``) and of each theory, from the same noise.
        means: Posterior means of the same noisy images, with shape ``(levels, draws, C, H, W)``.
        times, noise, noisy: The levels, the schedule, and the noisy images at each.
    """
    truth, exact = samples["network"], means["network"]
    out = []
    for name in samples:
        if name == "network":
            continue
        levels = []
        for i, t in enumerate(times):
            alpha, sigma = (float(c) for c in noise(t))
            a, b = ((alpha * m[i] - noisy[i]) / sigma**2 for m in (exact, means[name]))
            levels.append(
                {"t": t, "ratio": sigma / alpha, "r2": median(r2_pearson(exact[i], means[name][i])), "cosine": median(cosine(a, b))}
            )
        out.append(
            {
                "name": name,
                "title": title(name),
                "r2_pearson": median(r2_pearson(truth, samples[name])),
                "pearson_r": median(pearson_r(truth, samples[name])),
                "r2_determination": median(r2_determination(truth, samples[name])),
                "levels": levels,
            }
        )
    return sorted(out, key=lambda row: -(row["r2_pearson"] or {"value": -1.0})["value"])


def nearest(truth: Tensor, data: ImageSet) -> tuple[dict, Tensor]:
    """The null of a copy: agreement of each sample with its nearest training image; and these."""
    found = memorisation(truth, data)
    copies = data.images[found.nearest]
    return {
        "name": NEAREST,
        "title": NEAREST,
        "r2_pearson": median(r2_pearson(truth, copies)),
        "pearson_r": median(pearson_r(truth, copies)),
    }, copies


def memorised(samples: dict[str, Tensor], data: ImageSet) -> dict:
    """Share of copies among the samples of each model."""
    return {name: Proportion.of(memorisation(x, data).memorised)._asdict() for name, x in samples.items()}


def lead(truth: Tensor, best: Tensor, second: Tensor) -> dict | None:
    """By how much the best theory predicts better than the second, sample by sample."""
    return median(r2_pearson(truth, best) - r2_pearson(truth, second))


def parting(means: dict[str, Tensor], best: str) -> tuple[dict, Tensor]:
    """Where on the image and at which level network and best theory part: shares of the variance of the network's answers.

    Returns:
        ``levels``, the share at each; ``border``, how many times as much at the border as inside; and the shares with shape
        ``(levels, H, W)``.
    """
    a, b = means["network"].double(), means[best].double()
    scale = (a - a.mean((-2, -1), keepdim=True)).square().mean((1, 2, 3, 4)).clamp(min=1e-30)
    maps = (a - b).square().mean((1, 2)) / scale[:, None, None]
    ring = torch.ones(maps.shape[1:], dtype=torch.bool)
    if min(ring.shape) > 2:
        ring[1:-1, 1:-1] = False
    inside = maps[:, ~ring].mean() if (~ring).any() else maps.mean()
    return {"levels": maps.mean((1, 2)).tolist(), "border": float(maps[:, ring].mean() / inside.clamp(min=1e-12))}, maps.float()


def losses(means: Tensor, clean: Tensor, data: ImageSet) -> list[dict]:
    """Denoising loss of the network at each level, and of the mean image, which any trained network beats."""
    mean = (data.weights.to(data.images).reshape(-1, 1, 1, 1) * data.images).sum(0, keepdim=True)
    constant = Estimate.of(squared_error(mean.expand_as(clean), clean))
    return [{"network": Estimate.of(squared_error(m, clean))._asdict(), "mean_image": constant._asdict()} for m in means]


def sentences(report: dict) -> list[str]:
    """The verdict, the most important first."""
    best, *others = report["ranking"]
    if best["r2_pearson"] is None:
        return ["The samples of the network are constant images: nothing can be said about them."]
    second = others[0] if others and others[0]["r2_pearson"] is not None else None
    tied = second is not None and not (report["lead"] is not None and report["lead"]["low"] > 0)
    value, count = best["r2_pearson"]["value"], report["effort"]["samples"]
    told = VERBS[tied][0 if value >= ALIKE else 1 if value >= POOR else 2]
    if tied:
        values = f"{_interval(best['r2_pearson'])} and {_interval(second['r2_pearson'])} over {count} samples, too few to tell them apart"
        out = [f"{best['title']} and {second['title']} {told} this network: median r² {values}."]
    else:
        out = [f"{best['title']} {told} this network: median r² {_interval(best['r2_pearson'])} over {count} samples."]
        if second is not None:
            out.append(f"Next is {second['title']} with {_interval(second['r2_pearson'])}, which is less, sample by sample.")
    nulls = [row for row in (*others, report["nearest"]) if row["name"] in (NULL, NEAREST) and row["r2_pearson"]]
    if nulls:
        out.append(
            "What says nothing of the architecture: " + ", ".join(f"{r['title']} {r['r2_pearson']['value']:.3f}" for r in nulls) + "."
        )
    out.append(_where(report))
    share = report["memorised"]["network"]
    out.append(
        f"{100 * share['value']:.1f}% of its samples are copies of training images ({100 * share['low']:.1f} to {100 * share['high']:.1f})."
    )
    return out


def _where(report: dict) -> str:
    levels, part = report["ranking"][0]["levels"], report["parting"]
    worst = max(range(len(levels)), key=lambda i: part["levels"][i])
    if part["levels"][worst] < ROUNDING:
        return "Denoised images of network and theory are the same at every level."
    place = "mostly at the border" if part["border"] > BORDER else "mostly inside" if part["border"] < 1 / BORDER else "all over the image"
    at = f"{levels[worst]['ratio']:.2g}"
    return f"Network and theory part most at sigma/alpha {at} ({100 * part['levels'][worst]:.0f}% of the variance), {place}."


def warnings(report: dict) -> list[str]:
    """What casts doubt on the rest."""
    out = []
    worse = [
        f"{level['ratio']:.2g}" for level, loss in zip(report["ranking"][0]["levels"], report["losses"], strict=True)
        if loss["network"]["value"] - 3 * loss["network"]["stderr"] > loss["mean_image"]["value"]
    ]  # fmt: skip
    if worse:
        out.append(
            f"At sigma/alpha {', '.join(worse)} the network denoises worse than the mean image would. Are prediction, "
            f"schedule and data its own?"
        )
    layers = report["seeing"]["attention"]
    if layers and not any(row["name"].startswith("attention") for row in report["ranking"]):
        out.append(f"The network has self-attention ({', '.join(layers[:3])}), whose theory was not solved here: --attention solve does.")
    if report["seeing"]["gradients"]:
        out.append(f"Its receptive field was not measured: {report['seeing']['gradients']}.")
    if report["attention"] is not None and not report["attention"]["converged"]:
        out.append("The solved score of attention is not converged: an upper bound on the optimum of its family.")
    return out


def _interval(x: dict) -> str:
    return f"{x['value']:.3f} [{x['low']:.3f}, {x['high']:.3f}]"
