"""The one table that is printed: what was measured, and below it all that was not, with the reasons."""

from collections import Counter

from rich.table import Table

from benchmarks.gpu.case import SIDE
from benchmarks.gpu.rows import BAD

SCORE = ("machine", "border", "patch", "images", "batch", "sigma", "engine")


def table(rows: list[dict], title: str) -> Table:
    """Rows with numbers; commands have their name where scores have machine and engine."""
    shown = Table(title=title, title_justify="left")
    left = ("what", "border", "engine", "result")
    measured = ("first call", "seconds", "pairs/s", "of exp", "error")
    for name in ("what", "border", "patch", "images", "batch", "sigma", "engine", *measured, "result"):
        shown.add_column(name, justify="left" if name in left else "right")
    for r in rows:
        if r["status"] not in ("refused", "not run"):
            shown.add_row(*_cells(r))
    return shown


def _cells(r: dict) -> list[str]:
    """The cells of a row."""
    if "machine" in r:
        about = [str(r[k]) if r.get(k) is not None else "" for k in SCORE]
        if (r.get("channels", 3), r.get("side", SIDE)) != (3, SIDE):
            about[0] += f" {r['channels']}x{r['side']}x{r['side']}"
        about[0] += f" rtol {r['rtol']:g}" if r.get("rtol") else ""
        about[0] += " graph" if r.get("graph") else ""
    else:
        about = [f"{r['part']} {r['name']}", *[""] * (len(SCORE) - 1)]
    numbers = [
        f"{r['first']:.3g}" if "first" in r else "",
        f"{r['seconds']:.3g}" if "seconds" in r else "",
        f"{r['pairs_per_second']:.1e}" if "pairs_per_second" in r else "",
        f"{r['of_exponentials']:.2f}" if "of_exponentials" in r else "",
        f"{r['error']:.0e}" if r.get("error") is not None else "",
    ]
    return [*about, *numbers, _result(r)]


def _result(r: dict) -> str:
    """The last cell; messages have lines of their own below the table."""
    told = {
        "train": f"{r.get('ms_per_step')} ms a step" if "ms_per_step" in r else "",
        "solve": ("certified" if r.get("certified") else "not certified, so short") if "certified" in r else "",
        "tests": ", ".join(f"{r[k]} {k}" for k in ("passed", "failed", "skipped") if k in r),
    }.get(r["part"], "")
    return ", ".join(filter(None, [r["status"] if r["status"] in BAD else "", told])) or "ok"


def remarks(rows: list[dict]) -> list[str]:
    """Lines on what failed, was stopped, was refused (once for each engine and reason) or was not run (likewise)."""
    lines = [f"{r['status']}: {_what(r)}: {r['message']}" for r in rows if r["status"] in BAD]
    for status in ("refused", "not run"):
        chosen = [r for r in rows if r["status"] == status]
        several = Counter((r["part"], r.get("engine", r["name"]), _cause(r)) for r in chosen)
        lines += [f"{status}: {part} {name}{f', {n} times' if n > 1 else ''}: {cause}" for (part, name, cause), n in several.items()]
    return lines


def _what(r: dict) -> str:
    return f"{r['name']}, {r['engine']}" if "engine" in r else f"{r['part']} {r['name']}"


def _cause(r: dict) -> str:
    """The reason without the numbers and names in which rows of one cause differ."""
    return r["message"].partition(" for machine ")[0] if r["status"] == "refused" else r["message"]
