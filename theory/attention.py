"""The attention part of the command line: solve family by family, resume, and tell what came out."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from theory.machines import EquivariantLocal, Ideal
from theory.metrics import noisy_images
from theory.results import ResultDirectory
from theory.stationarity import Plan, SolvedScore
from theory.stationarity.run import Kept, Store
from theory.stationarity.run import Progress as Solving
from theory.types import Images

WIDE = 4  # families side by side in a table
KEEP = 60  # seconds between two times a descent is saved
SAY = 60  # seconds between two lines in a log


def solve_attention(plan: Plan, results: ResultDirectory, progress: Progress) -> dict[str, SolvedScore]:
    """Solve all families, going on where an interrupted run left off."""
    shown = _Shown(progress)
    solved = plan.solve(Parts(results), shown.told)
    shown.close()
    return {name: plan.solution(name, s) for name, s in solved.items()}


class Parts(Store):
    """Descents as parts of a result directory."""

    def __init__(self, results: ResultDirectory) -> None:
        self.results, self.saved = results, time.perf_counter()

    def load(self, name: str) -> Kept | None:
        part = self.results.part(f"attention-{name}")
        if part is None:
            return None
        values, tensors = part
        if int(tensors.pop("step")) != values["step"]:  # cut off between its two files
            return None
        return Kept(tensors, values["step"], values["history"], values["seconds"])

    def save(self, name: str, kept: Callable[[], Kept], last: bool) -> None:
        if not last and time.perf_counter() - self.saved < KEEP:
            return
        k = kept()
        values = {"step": k.step, "history": k.history, "seconds": k.seconds}
        self.results.save_part(f"attention-{name}", values, {**k.tensors, "step": torch.tensor(k.step)})
        self.saved = time.perf_counter()


def told(solution: SolvedScore) -> dict:
    """What the report says of a solution: its certificates as one list over its knots for each field, and how it was found."""
    certificates = solution.certificates
    lists = {key: [c[key] for c in certificates] for key in certificates[0]}
    alpha, sigma = solution.schedule(torch.tensor(solution.setting.times, dtype=torch.float64))
    return {"ratios": (sigma / alpha).tolist(), **lists, **solution.descent, "certified": solution.certified}


class _Shown:
    """Progress: a bar on a terminal, a line now and then in a log."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.tasks = progress, {}
        self.start = self.said = time.perf_counter()

    def told(self, at: Solving) -> None:
        if at.task not in self.tasks:
            self.tasks[at.task] = self.progress.add_task(at.task, total=100)
        self.progress.update(self.tasks[at.task], completed=round(100 * at.share))
        now = time.perf_counter()
        if not self.progress.console.is_terminal and (at.share == 1 or now - self.said >= SAY):
            losses = " ".join(f"{x:.4f}" for x in at.history[-1]["losses"]) if at.history else "not measured yet"
            losses = "" if at.task == "certificates" else f", losses {losses}"
            self.progress.console.print(f"{at.task}: {100 * at.share:.0f}%{losses} ({now - self.start:.0f} s)", highlight=False)
            self.said = now

    def close(self) -> None:
        for task in self.tasks.values():
            self.progress.remove_task(task)


def attention_tables(report: dict) -> list[Table]:
    """Loss of each family with its standard error, and the verdict of its certificate; a few families each."""
    names = list(report["attention"])
    return [_table(report, names[i : i + WIDE]) for i in range(0, len(names), WIDE)]


def _table(report: dict, names: list[str]) -> Table:
    unit = {"sample": "", "epsilon": " (of epsilon, as it is predicted)", "score": " (of the score, as it is predicted)"}
    title = f"Attention, solved: loss{unit[report['config']['prediction']]} per image above the ideal one, on fresh images"
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


class View(NamedTuple):
    """What attention does at one pixel of one noisy image.

    Attributes:
        name: The family.
        t: Time.
        pixel: Row and column.
        x_t, els, local, context, exact: Images with shape ``(C, H, W)``; ``local + context`` is the model's mean.
        attention: Attention of the pixel to all pixels, with shape ``(H, W)``.
    """

    name: str
    t: float
    pixel: tuple[int, int]
    x_t: Tensor
    els: Tensor
    local: Tensor
    context: Tensor
    exact: Tensor
    attention: Tensor


def view(solution: SolvedScore, seed: int) -> View:
    """The image, of 64, and the pixel where the prediction gains most over that from the patch alone (ELS),
    at the level where it gains most on average."""
    gains = [c["gain"] for c in solution.certificates]
    t = solution.setting.times[max(range(len(gains)), key=gains.__getitem__)]
    data, schedule, setting = solution.data, solution.schedule, solution.setting
    x_t = noisy_images(data, schedule, t, 64, seed).x_t
    split = solution.split(x_t, t)
    exact = Ideal(data, schedule, memory=solution.memory).denoise(x_t, t)
    els = EquivariantLocal(data, schedule, patch_size=setting.patch_size, border=setting.border, memory=solution.memory).denoise(x_t, t)
    gain = _error(els, exact) - _error(split.local + split.context, exact)
    image, pixel = divmod(int(gain.flatten().argmax()), gain[0].numel())
    height, width = gain.shape[1:]
    attention = split.attention[image, pixel].reshape(height, width)
    parts = (x[image] for x in (x_t, els, split.local, split.context, exact))
    return View(setting.family, t, divmod(pixel, width), *parts, attention)


def _error(mean: Images, truth: Images) -> Tensor:
    return (mean - truth).square().sum(1)
