"""Solving family by family, with progress, resumed where it was left."""

import time
from collections.abc import Callable

import torch
from rich.progress import Progress

from theory.results import ResultDirectory
from theory.stationarity import Plan, SolvedScore
from theory.stationarity.run import Kept, Store
from theory.stationarity.run import Progress as Solving

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
        self.results, self.start, self.saved = results, time.perf_counter(), {}

    def load(self, name: str) -> Kept | None:
        part = self.results.part(f"attention-{name}")
        if part is None:
            return None
        values, tensors = part
        if int(tensors.pop("step")) != values["step"]:  # cut off between its two files
            return None
        return Kept(tensors, values["step"], values["history"], values["seconds"])

    def save(self, name: str, kept: Callable[[], Kept], last: bool) -> None:
        if not last and time.perf_counter() - self.saved.get(name, self.start) < KEEP:
            return
        k = kept()
        values = {"step": k.step, "history": k.history, "seconds": k.seconds}
        self.results.save_part(f"attention-{name}", values, {**k.tensors, "step": torch.tensor(k.step)})
        self.saved[name] = time.perf_counter()


class _Shown:
    """Progress: a bar on a terminal, a line now and then in a log."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.tasks = progress, {}
        self.start, self.said = time.perf_counter(), {}

    def told(self, at: Solving) -> None:
        if at.task not in self.tasks:
            self.tasks[at.task] = self.progress.add_task(at.task, total=100)
        self.progress.update(self.tasks[at.task], completed=round(100 * at.share))
        now = time.perf_counter()
        if not self.progress.console.is_terminal and (at.share == 1 or now - self.said.get(at.task, self.start) >= SAY):
            loss = f"{at.history[-1]['loss']:.4f}" if at.history else "not measured yet"
            losses = "" if at.task == "certificates" else f", loss {loss}"
            self.progress.console.print(f"{at.task}: {100 * at.share:.0f}%{losses} ({now - self.start:.0f} s)", highlight=False)
            self.said[at.task] = now

    def close(self) -> None:
        for task in self.tasks.values():
            self.progress.remove_task(task)
