"""What is printed: tables of losses and samples, and a verdict for each solution."""

from rich.table import Table

from theory.command.task import Task
from theory.predictions import loss_of

WIDE = 4  # families side by side in a table


def attention_tables(report: dict) -> list[Table]:
    """Loss of each family with its standard error, and the verdict of its certificate; a few families each."""
    names = list(report["attention"])
    return [_table(report, names[i : i + WIDE]) for i in range(0, len(names), WIDE)]


def _table(report: dict, names: list[str]) -> Table:
    title = f"Attention, solved: loss{loss_of(report['config']['prediction'])} per image above the ideal one, on fresh images"
    table = Table(title=title, title_justify="left")
    table.add_column("sigma/alpha", justify="right")
    table.add_column("ELS", justify="right")
    for name in names:
        table.add_column(name, justify="right")
    families = [report["attention"][name] for name in names]
    rows = [{f"{ratio:.3f}": i for i, ratio in enumerate(f["ratios"])} for f in families]  # knots may differ between families
    for ratio in sorted({r for row in rows for r in row}, key=float):
        at = [row.get(ratio) for row in rows]
        cells = [_cell(f, i) for f, i in zip(families, at, strict=True)]
        els = next(f["els_loss"][i] for f, i in zip(families, at, strict=True) if i is not None)
        table.add_row(ratio, f"{els:.4f}", *cells)
    table.caption = (
        "every loss is an upper bound on the optimum; =: another start ended there too and nobody lies below; <: somebody does; "
        "~: another start ended elsewhere; ?: no other start has tried"
    )
    table.caption_justify = "left"
    return table


def _cell(family: dict, i: int | None) -> str:
    return "-" if i is None else f"{_value(family['loss_fresh'][i], family['loss_stderr'][i])}\n{_verdict(family, i)}"


def _value(loss: float | None, stderr: float | None) -> str:
    return "not finite" if loss is None else f"{loss:.4f} ± {stderr:.4f}"


def _verdict(family: dict, i: int) -> str:
    """What other solves and challengers found at a level."""
    if family["converged"][i]:
        return "= converged"
    if not any(c["independent"] for c in family["challenges"][i]):
        return "? upper bound"
    best, loss = family["best_known"][i], family["loss_fresh"][i]
    return f"< {best:.4f} known" if loss is not None and best < loss else "~ upper bound"


def standing(family: dict) -> str:
    """What the report's numbers of a family are: whether they can be trusted, and as what. Never the optimum itself."""
    if not family["certified"]:
        return "not certified"
    return "converged" if all(family["converged"]) else "upper bound"


def _open(family: dict) -> str:
    """What is missing to a verdict better than an upper bound."""
    count = len(family["converged"])
    missing = count - sum(family["converged"])
    if not missing:
        return "other starts agree at every level"
    tried = any(c["independent"] for x in family["challenges"] for c in x)
    return f"converged at {count - missing} of {count} levels" if tried else "no other start has tried (--quality full)"


def verdicts(report: dict) -> list[str]:
    """One line for each family: whether its certificates hold, and what its printed equation would miss."""
    lines = []
    for name, f in report["attention"].items():
        ratios = f["ratios"]
        broken = [f"sigma/alpha {r:.3f}: {'; '.join(x)}" for r, x in zip(ratios, f["failures"], strict=True) if x]
        lines.append(f"{name}: NOT certified: {' | '.join(broken)}" if broken else f"{name}: certified, {standing(f)}: {_open(f)}")
        known = [i for i, gap in enumerate(f["printed"]) if gap is not None]
        if known:
            at = max(known, key=f["els_loss"].__getitem__)
            missed = 100 * f["printed"][at]
            lines.append(f"  at sigma/alpha {ratios[at]:.3f} the printed equation gets the force of attention wrong by {missed:.0f}% of it")
    return lines


def loss_table(report: dict) -> Table:
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


def sample_table(report: dict, task: Task) -> Table:
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
