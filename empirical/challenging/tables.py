"""A challenge for a reader: a table, and sentences."""

from rich.markup import escape
from rich.table import Table

from empirical.challenging.update import changed
from theory.predictions import loss_of


def table(report: dict) -> Table:
    """Losses of the solution and of each challenger at each ratio, and the verdict there."""
    loss = f"loss{loss_of(report['solution']['options']['prediction'])} per image above the ideal one"
    out = Table(
        title=f"{report['solution']['family']}, challenged: {loss}, on {report['config']['fresh']} fresh images", title_justify="left"
    )
    for column in ("sigma/alpha", "ELS", "solution"):
        out.add_column(column, justify="right")
    out.add_column("challenger")
    for column in ("its loss", "below by"):
        out.add_column(column, justify="right")
    out.add_column("verdict")
    for level in report["levels"]:
        head = [f"{level['ratio']:.3f}{' *' if level['knot'] is not None else '  '}", f"{level['els_loss']:.4f}"]
        head.append(f"{level['loss']:.4f} ± {level['stderr']:.4f}")
        for i, (name, m) in enumerate(level["challengers"].items()):
            cells = [_title(report, name), f"{m['loss']:.4f} ± {m['stderr']:.4f}", f"{m['below']:+.4f} ± {m['below_stderr']:.4f}"]
            out.add_row(
                *([""] * 3 if i else head), *cells, "" if i else escape(level["verdict"]), end_section=i + 1 == len(level["challengers"])
            )
    out.caption = "*: a solved level; below by: loss of the solution less that of the challenger, image by image"
    out.caption_justify = "left"
    return out


def _title(report: dict, name: str) -> str:
    return escape(name) + (" (not of the family)" if report["challengers"][name]["outside"] else "")


def verdicts(report: dict) -> list[str]:
    """Sentences: who is not of the family and why, what to know of members, and whether the solution stands."""
    lines = []
    for name, told in report["challengers"].items():
        if told["outside"]:
            lines.append(f"{name}: not of the family ({told['outside']}): shown, but left out of verdict and certificates")
        elif told["note"]:
            lines.append(f"{name}: of the family but for {told['note']}")
    if changed(report):
        lines.append(f"{changed(report)}: the same images, but other coordinates; compare with the threads and versions it was solved with")
    below = [x for x in report["levels"] if x["lowest"]]
    count = len(report["levels"])
    if below:
        worst = max(below, key=lambda x: x["challengers"][x["lowest"]]["below"])
        lines.append(f"refuted at {len(below)} of {count} ratios: at sigma/alpha {worst['ratio']:.3f} {worst['verdict']}")
    elif all(told["outside"] for told in report["challengers"].values()):
        lines.append("no challenger is of the family: nobody tried")
    else:
        lines.append(f"nobody of the family lies below at any of {count} ratios")
    return lines
