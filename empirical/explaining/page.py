"""One self-contained page: the verdict first, then what it rests on."""

import html
import math
from pathlib import Path

import torch
from torch import Tensor

from empirical.explaining.effort import in_words
from empirical.explaining.svg import Curve, bar, curves, heat, png, shown
from empirical.explaining.theories import NEAREST, NULL, PADDED, THEORIES, title

# Okabe & Ito's colours, told apart by all readers, as in the package's figures.
COLOUR = {
    "ideal": "#000000", "es": "#8a8a8a", "ls-zeros": "#D55E00", "ls-circular": "#E69F00", "els-zeros": "#0072B2", "els-circular": "#56B4E9",
    NEAREST: "#b0b0b0",
}  # fmt: skip
OTHERS = ("#009E73", "#CC79A7", "#7B4FA3", "#A6761D")
SHOWN = 12  # samples side by side
SIDE = 56  # pixels of the page for a picture, about

STYLE = """
 body { font: 17px/1.5 Georgia, serif; color: #222; background: #fff; max-width: 900px; margin: 2em auto; padding: 0 1em; }
 h1, h2, table, .legend, nav, figcaption, .y, .x, dt { font-family: system-ui, sans-serif; }
 h1 { font-size: 1.55em; line-height: 1.25; margin: .2em 0 .6em; }
 h2 { font-size: 1.15em; margin: 2.4em 0 .5em; padding-top: .7em; border-top: 1px solid #ccc; }
 .over { color: #666; font: .9em system-ui, sans-serif; margin: 0; overflow-wrap: anywhere; }
 .warn { background: #fff4e5; border-left: 4px solid #D55E00; padding: .5em .8em; }
 table { border-collapse: collapse; font-size: .86em; margin: 1em 0; width: 100%; }
 th, td { padding: .32em .6em; text-align: right; border-bottom: 1px solid #e2e2e2; white-space: nowrap; }
 th:first-child, td:first-child { text-align: left; white-space: normal; }
 tr.null td { color: #777; }
 .wide { width: 27%; }
 td:first-child { min-width: 11.5em; }
 .bar { position: relative; height: 13px; background: #f2f2f2; }
 .bar b { display: block; height: 100%; }
 .bar em { position: absolute; top: 5px; height: 3px; background: #fff; outline: 1px solid #222; min-width: 1px; }
 .scroll { overflow-x: auto; }
 .pictures td { border: 0; padding: 2px; text-align: center; font: .72em system-ui, sans-serif; color: #666; }
 .pictures td:first-child { text-align: right; padding-right: .7em; min-width: 8.5em; color: #222; font-size: .8em; white-space: normal; }
 img { image-rendering: pixelated; display: block; margin: 0 auto; outline: 1px solid #ddd; }
 svg { width: 100%; height: auto; }
 svg text { font: 12px system-ui, sans-serif; fill: #444; }
 svg .x { text-anchor: middle; } svg .y { text-anchor: end; } svg .grid { stroke: #e6e6e6; }
 .legend { font-size: .82em; margin: .2em 0 1em; } .legend span { margin-right: 1.1em; white-space: nowrap; }
 .legend i { display: inline-block; width: 1.1em; height: .28em; margin-right: .4em; vertical-align: middle; }
 pre { background: #f6f6f6; padding: .7em .9em; overflow-x: auto; font-size: .85em; white-space: pre-wrap; overflow-wrap: anywhere; }
 .small { font-size: .86em; color: #555; }
"""


def colours(report: dict) -> dict[str, str]:
    """A colour for each theory."""
    rest = [row["name"] for row in report["ranking"] if row["name"] not in COLOUR]
    return COLOUR | {name: OTHERS[i % len(OTHERS)] for i, name in enumerate(rest)}


def write(path: Path, report: dict, tensors: dict[str, Tensor]) -> None:
    """Write the page, atomically.

    Args:
        path: Of the page.
        report: What `empirical.explain` reports.
        tensors: ``samples.NAME`` of each model, ``nearest``, ``fields``, ``errors`` and ``parting``.
    """
    parts = [_verdict(report), _samples(report, tensors), _levels(report), _seeing(report, tensors), _parting(report, tensors)]
    parts += [_memorised(report, tensors), _made(report)]
    told = f"{report['network']} on {report['data']['name']}"
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(told)}</title><style>{STYLE}</style></head>
<body><p class="over">{html.escape(told)}</p>
{chr(10).join(parts)}
</body></html>
"""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)


def _verdict(report: dict) -> str:
    first, *rest = report["verdict"]
    warned = "".join(f'<p class="warn">{html.escape(line)}</p>' for line in report["warnings"])
    lines = "".join(f"<p>{html.escape(line)}</p>" for line in rest)
    known = colours(report)
    body = []
    ranked = sorted((*report["ranking"], report["nearest"]), key=lambda r: -(r["r2_pearson"] or {"value": -1})["value"])
    for row in ranked:
        r2, r = row["r2_pearson"], row["pearson_r"]
        if r2 is None:
            body.append(f"<tr><td>{html.escape(row['title'])}</td><td colspan=4>constant images</td></tr>")
            continue
        more = row.get("r2_determination")
        explained = "" if more is None else format(more["value"], ".3f")
        null = ' class="null"' if row["name"] in (NULL, NEAREST) else ""
        body.append(
            f'<tr{null}><td title="{html.escape(_says(row["name"]))}">{html.escape(row["title"])}</td><td>{_interval(r2)}</td>'
            f'<td class="wide">{bar(r2["value"], r2["low"], r2["high"], known[row["name"]])}</td>'
            f"<td>{explained}</td><td>{r['value']:.3f}</td></tr>"
        )
    head = "<tr><th>theory</th><th>median r² (95% interval)</th><th></th><th>variance explained</th><th>correlation</th></tr>"
    note = (
        "Samples of network and theory from the same noise, with the same steps. r² is the squared correlation of the "
        "pixels of each pair of samples, "
        "its median over samples with a bootstrap interval. Grey: what would be as true of any network on these data."
    )
    return f"<h1>{html.escape(first)}</h1>{lines}{warned}<table>{head}{''.join(body)}</table><p class='small'>{note}</p>"


def _says(name: str) -> str:
    """What a network must be for a theory, as a hint."""
    return f"the best score of a network that is {THEORIES[name].says}" if name in THEORIES else ""


def _samples(report: dict, tensors: dict[str, Tensor]) -> str:
    best = report["ranking"][0]["name"]
    order = torch.tensor(report["r2_of_samples"]).nan_to_num(-1).argsort(descending=True)
    count = min(SHOWN, len(order))
    picked = order[torch.linspace(0, len(order) - 1, count).round().long()].tolist()
    rows = [(title(best), f"samples.{best}"), ("the network", "samples.network"), ("IS, the ideal score", "samples.ideal")]
    rows = [*dict.fromkeys(rows), ("nearest training image", "nearest")]
    scale = _scale(tensors["samples.network"])
    lines = []
    for name, key in rows:
        cells = "".join(f"<td>{png(shown(tensors[key][i]), scale, f'sample {i}')}</td>" for i in picked)
        lines.append(f"<tr><td>{html.escape(name)}</td>{cells}</tr>")
    values = "".join(f"<td>{report['r2_of_samples'][i]:.2f}</td>" for i in picked)
    table = f"<tr><td>r² of both</td>{values}</tr>"
    return (
        f'<h2 id="samples">Theory above network, from the same '
        f'noise</h2><div class="scroll"><table class="pictures">{"".join(lines)}{table}</table>'
        f"</div><p class='small'>{count} of {len(order)} samples, at equal ranks from the best predicted (left) to the worst (right).</p>"
    )


def _levels(report: dict) -> str:
    ratios = [level["ratio"] for level in report["ranking"][0]["levels"]]
    known = colours(report)

    def curve(row: dict, key: str) -> Curve:
        values = [level[key] for level in row["levels"]]
        told = [[None if v is None else v[part] for v in values] for part in ("value", "low", "high")]
        return Curve(row["title"], known[row["name"]], *told, dashed=row["name"] == NULL)

    drawn = {key: [curve(row, key) for row in report["ranking"]] for key in ("cosine", "r2")}
    score, images = (curves(ratios, lines, label=f"{key} by noise level", bottom=_floor(lines)) for key, lines in drawn.items())
    return (
        '<h2 id="levels">Level by level</h2><p>How alike the scores of network and theory are on the same noisy '
        "training images: the median cosine of "
        f"the angle between them.</p>{score}<p>The same of the denoised images, as r² of their pixels.</p>{images}"
        f"{_by_level(report, ratios)}"
    )


def _by_level(report: dict, ratios: list[float]) -> str:
    """Median r2 of the denoised images, theory by theory and level by level, the best of each level in bold."""
    values = [[level["r2"] for level in row["levels"]] for row in report["ranking"]]
    best = [max((v["value"] for v in column if v), default=None) for column in zip(*values, strict=True)]
    head = "".join(f"<th>σ/α {r:.2g}</th>" for r in ratios)
    lines = []
    for row, told in zip(report["ranking"], values, strict=True):
        cells = "".join(
            "<td></td>" if v is None else f'<td title="{_interval(v)}">{_bold(v["value"], v["value"] == b)}</td>'
            for v, b in zip(told, best, strict=True)
        )
        lines.append(f"<tr><td>{html.escape(row['title'])}</td>{cells}</tr>")
    note = "The best of each level in bold; the 95% interval of each number shows under the pointer, and is the band of its curve."
    return (
        f'<div class="scroll"><table><tr><th>r² of denoised images</th>{head}</tr>{"".join(lines)}</table></div><p class="small">{note}</p>'
    )


def _bold(value: float, best: bool) -> str:
    return f"<b>{value:.3f}</b>" if best else f"{value:.3f}"


def _floor(lines: list[Curve]) -> float:
    """Where an axis of shares may begin: at the tenth below the lowest of them, or at 0 where that would not save half of it."""
    lowest = min((v for line in lines for v in (line.low or line.values) if v is not None), default=0.0)
    return 0.0 if lowest < 0.5 else min(0.9, math.floor(lowest * 10) / 10)


def _seeing(report: dict, tensors: dict[str, Tensor]) -> str:
    seeing, levels = report["seeing"], report["seeing"]["levels"]
    ratios = [level["ratio"] for level in report["ranking"][0]["levels"]]
    scale = _scale(tensors["fields"][:, None])
    parts = ['<h2 id="seeing">What the network sees</h2>']
    lines = []
    if not seeing["gradients"]:
        cells = "".join(
            f"<td>{png(heat(f, float(f.max()), 4), scale, 'squared gradients')}<br>σ/α {r:.2g}</td>"
            for f, r in zip(tensors["fields"], ratios, strict=True)
        )
        parts.append(
            f"<p>How much the guess at the central pixel changes with each pixel (squared gradients, logarithmic over "
            f"four powers of ten).</p>"
            f'<div class="scroll"><table class="pictures"><tr><td>gradients</td>{cells}</tr></table></div>'
        )
        lines.append(Curve("field of 99% of the squared gradients", "#222222", [level["field"] for level in levels]))
    for border, found in report["calibration"].items():
        sizes = [level["best"] for level in found["levels"]]
        lines.append(Curve(f"calibrated patch, {PADDED[border]}", COLOUR[f"els-{border}"], sizes, dashed=border == "circular"))
    if lines:
        chart = curves(ratios, lines, label="sizes by noise level", top=None, whole=True)
        parts.append(f"<p>The side of what it sees, in pixels, and of the patch of the theory that is most like it.</p>{chart}")
    wide = max((level["touched"] or 0 for level in levels), default=0) >= min(tensors["fields"].shape[1:]) - 1
    words = {
        "circular": "It answers shifted images with shifted answers, up to the border and around it: circular padding.",
        "zeros": "Inside, it answers shifted images with shifted answers; at the border it feels its padding.",
        "places": "It answers differently in different places, not only at the border"
        + (": it sees the whole image, and so its padding from everywhere." if wide else "."),
    }
    shifts = list(levels[0]["equivariance"])
    head = "<tr><th>shift by</th>" + "".join(f"<th>σ/α {r:.2g}</th>" for r in ratios) + "</tr>"
    body = "".join(
        f"<tr><td>{s} pixel{'s' if s != '1' else ''}{told}</td>" + "".join(f"<td>{level[key][s]:.3f}</td>" for level in levels) + "</tr>"
        for s in shifts
        for told, key in (("", "equivariance"), (", inside", "interior"))
    )  # fmt: skip
    touched = {level["touched"] for level in levels} - {None}
    reach = f" Gradients reach {max(touched)} pixels at most." if touched else ""
    layers = f" Layers of attention: {html.escape(', '.join(seeing['attention'][:6]))}." if seeing["attention"] else ""
    parts.append(
        f"<p>{words[seeing['padding']]}{reach}{layers} Relative error of a shifted answer, over all pixels and over the inner ninth:</p>"
    )
    parts.append(f'<div class="scroll"><table>{head}{body}</table></div>')
    if report.get("between") is not None:
        parts.append(
            f"<p class='small'>The network knows {report['discrete_levels']} levels; between two of them its answer is uncertain by "
            f"{100 * report['between']:.2g}% of the spread of its images: that far is it, halfway, from the answer for "
            f"the nearest level.</p>"
        )
    return "".join(parts)


def _parting(report: dict, tensors: dict[str, Tensor]) -> str:
    maps, best = tensors["parting"], report["ranking"][0]
    largest, scale = float(maps.max()), _scale(maps[:, None])
    ratios = [level["ratio"] for level in best["levels"]]
    cells = "".join(
        f"<td>{png(heat(m, largest), scale, 'difference')}<br>σ/α {r:.2g}<br>{_percent(v)}</td>"
        for m, r, v in zip(maps, ratios, report["parting"]["levels"], strict=True)
    )
    return (
        f'<h2 id="parting">Where they part</h2><p>Squared difference between the denoised images of the network and of '
        f"{html.escape(best['title'])}, pixel by "
        f"pixel, as a share of the variance of the network's: dark is {_percent(largest)} and more, below each its mean.</p>"
        f'<div class="scroll"><table class="pictures"><tr><td>difference</td>{cells}</tr></table></div>'
    )


def _memorised(report: dict, tensors: dict[str, Tensor]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape('the network' if name == 'network' else title(name))}</td>"
        f"<td>{100 * x['value']:.1f}% [{100 * x['low']:.1f}, {100 * x['high']:.1f}]</td></tr>"
        for name, x in report["memorised"].items()
    )
    scale, closest = _scale(tensors["nearest"]), report["closest"]
    cells = "".join(f"<td>{png(shown(tensors['samples.network'][i]), scale, f'sample {i}')}</td>" for i in closest)
    copies = "".join(f"<td>{png(shown(tensors['nearest'][i]), scale, 'training image')}</td>" for i in closest)
    return (
        '<h2 id="memorised">Copies of training images</h2><p>Samples three times closer to their nearest training '
        "image than to any other; those of the "
        f"network that come closest, above what they are nearest "
        f'to:</p><div class="scroll"><table class="pictures"><tr><td>the network</td>{cells}</tr>'
        f"<tr><td>nearest training image</td>{copies}</tr></table></div><table><tr><th>model</th><th>copies (95% "
        f"interval)</th></tr>{rows}</table>"
    )


def _made(report: dict) -> str:
    effort, took = report["effort"], report["seconds"]
    versions = ", ".join(f"{name} {v}" for name, v in report["versions"].items())
    return (
        f'<h2 id="made">How this was made</h2><pre>{html.escape(report["command"])}</pre>'
        f"<p class='small'>{effort['samples']} samples of {effort['steps']} steps, {effort['levels']} levels with "
        f"{effort['draws']} noisy images each, "
        f"{effort['calibration']} for the patch sizes; {in_words(took)}. {html.escape(report['precision'])} Training set "
        f"{html.escape(report['data']['name'])}, {report['data']['images']:,} images, "
        f"{report['data']['fingerprint'][:16]}. {html.escape(versions)}. "
        "All numbers are in report.json beside this page, all samples in samples.safetensors.</p>"
    )


def _scale(images: Tensor) -> int:
    """How many pixels of the page a pixel has."""
    return max(1, round(SIDE / max(images.shape[-2:])))


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%" if share >= 0.1 else f"{100 * share:.1f}%"


def _interval(x: dict) -> str:
    return f"{x['value']:.3f} [{x['low']:.3f}, {x['high']:.3f}]"
