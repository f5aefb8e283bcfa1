"""The attention part of the command line: solve level by level, resume, and tell what came out."""

import time
from typing import NamedTuple

from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from theory.machines import EquivariantLocal, Ideal
from theory.metrics import noisy_images
from theory.results import ResultDirectory
from theory.stationarity import Plan, SolvedScore
from theory.stationarity.learned import Point
from theory.stationarity.run import Found
from theory.stationarity.solver import STAGES, Solved
from theory.types import Images

WIDE = 4  # families side by side in a table


def solve_attention(plan: Plan, results: ResultDirectory, progress: Progress) -> tuple[dict[str, SolvedScore], dict[str, dict]]:
    """Solve all families at all levels, taking what an interrupted run has finished.

    Returns:
        Each family's solution, and what the report says of it: a list over the levels of everything
        its certificates hold.
    """
    found: dict[int, Found] = {}
    values: dict[int, dict] = {}

    def saved(number: int) -> Found | None:
        if number not in found and (part := results.part(_part(number))) is not None:
            values[number], tensors = part
            found[number] = _unpacked(tensors)
        return found.get(number)

    shown = _Shown(plan, progress)
    start = time.perf_counter()
    for number, solved in plan.levels(saved, shown.evaluated):
        shown.finished(number, {name: s.certificate for name, s in solved.items()})
        told = {name: {**s.certificate.asdict(), "printed": s.printed} for name, s in solved.items()}
        results.save_part(_part(number), {"families": told, "seconds": time.perf_counter() - start}, _packed(solved))
        saved(number)
        start = time.perf_counter()
    shown.close()
    levels = [saved(i) and values[i]["families"] for i in range(len(plan.times))]
    solutions = {f.name: plan.solution(f.name, [found[i] for i in range(len(levels))], [v[f.name] for v in levels]) for f in plan.families}
    return solutions, {name: _report(solution) for name, solution in solutions.items()}


def _part(number: int) -> str:
    return f"attention-level-{number}"


def _packed(solved: dict[str, Solved]) -> dict[str, Tensor]:
    return {f"{name}.{i}.{key}": x for name, s in solved.items() for i, stage in enumerate(s.stages) for key, x in stage.tensors().items()}


def _unpacked(tensors: dict[str, Tensor]) -> Found:
    stages: dict[str, list[dict[str, Tensor]]] = {}
    for key, x in tensors.items():
        name, stage, field = key.split(".")
        stages.setdefault(name, [{} for _ in range(STAGES)])[int(stage)][field] = x
    return {name: [Point.of(tensors) for tensors in parts] for name, parts in stages.items()}


def _report(solution: SolvedScore) -> dict:
    """Certificates as one list over the levels for each field."""
    certificates = solution.certificates
    lists = {key: [c[key] for c in certificates] for key in certificates[0]}
    return {**lists, "certified": solution.certified, "feasible_only": solution.family.hard}


class _Shown:
    """Progress: a bar on a terminal, a line for each level in a log."""

    def __init__(self, plan: Plan, progress: Progress) -> None:
        self.plan, self.progress, self.task = plan, progress, None
        self.names = [f.name for f in plan.families]
        self.start = time.perf_counter()

    def evaluated(self, number: int, name: str, stage: int, loss: float) -> None:
        total = len(self.plan.times) * len(self.names) * STAGES
        if self.task is None:
            self.task = self.progress.add_task("attention", total=total)
        done = (self.plan.order.index(number) * len(self.names) + self.names.index(name)) * STAGES + stage
        self.progress.update(self.task, completed=done, description=f"{name} at level {number + 1}: {loss:.4f}")

    def finished(self, number: int, certificates: dict) -> None:
        if not self.progress.console.is_terminal:
            losses = ", ".join(f"{name} {c.loss_fresh:.4f}" for name, c in certificates.items())
            els = next(iter(certificates.values())).els_loss
            seconds = time.perf_counter() - self.start
            self.progress.console.print(
                f"attention, level {number + 1} of {len(self.plan.times)}: ELS {els:.4f}, {losses} ({seconds:.0f} s)", highlight=False
            )

    def close(self) -> None:
        if self.task is not None:
            self.progress.remove_task(self.task)


def attention_tables(report: dict) -> list[Table]:
    """Loss of each family with its standard error, and the extrapolation to ever more features; a few families each."""
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
    for i, level in enumerate(report["levels"]):
        losses = [_value(f["loss_fresh"][i], f["loss_stderr"][i]) for f in families]
        limits = [_limit(f["limit"][i], f["limit_error"][i]) for f in families]
        cells = [f"{loss}\n{limit}" for loss, limit in zip(losses, limits, strict=True)]
        table.add_row(f"{level['sigma'] / level['alpha']:.3f}", f"{families[0]['els_loss'][i]:.4f}", *cells)
    table.caption = (
        "upper bounds on the optimum (top-1: feasible points); → extrapolated to ever more features and iterations (?: no telling)"
    )
    table.caption_justify = "left"
    return table


def _value(loss: float | None, stderr: float | None) -> str:
    return "not finite" if loss is None else f"{loss:.4f} ± {stderr:.4f}"


def _limit(limit: float | None, error: float | None) -> str:
    return "→ ?" if limit is None else f"→ {limit:.4f} ± {error:.4f}"


def standing(family: dict) -> str:
    """What the report's numbers of a family are: whether they can be trusted, and as what. Never the optimum itself."""
    if not family["certified"]:
        return "not certified"
    return "feasible point" if family["feasible_only"] else "upper bound"


def _open(family: dict) -> str:
    """What the solver itself can tell of how far there is to go."""
    count = len(family["converged"])
    missing = count - sum(family["converged"])
    hints = sorted({w.split(":")[0] for x in family["warnings"] for w in x})
    hint = f" ({'; '.join(hints)} at some levels)" if hints else ""
    return (f"not converged at {missing} of {count} levels" if missing else "converged as far as its own stages tell") + hint


def verdicts(report: dict) -> list[str]:
    """One line for each family: whether its certificates hold, and what its printed equation would miss."""
    ratios = [level["sigma"] / level["alpha"] for level in report["levels"]]
    lines = []
    for name, f in report["attention"].items():
        broken = [f"sigma/alpha {r:.3f}: {'; '.join(x)}" for r, x in zip(ratios, f["failures"], strict=True) if x]
        lines.append(f"{name}: NOT certified: {' | '.join(broken)}" if broken else f"{name}: certified {standing(f)}, {_open(f)}")
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
