"""Losses and samples of one denoiser, computed or taken from an interrupted run."""

import time

import torch
from rich.progress import Progress
from torch import Tensor

from theory.command.task import Task
from theory.denoiser import Denoiser
from theory.engines.ranks import agreed
from theory.machines import Ideal
from theory.metrics import Estimate, denoising_loss, noisy_images
from theory.results import ResultDirectory
from theory.sampling import initial_noise, sampler


def measured(
    name: str, denoiser: Denoiser, task: Task, results: ResultDirectory | None, progress: Progress
) -> tuple[dict, dict[str, Tensor]] | None:
    """Losses and samples of one denoiser, computed or taken from an interrupted run; None for a process that does not write."""
    if results is None and not task.shared(denoiser):
        return None
    saved = results.part(name) if results else None
    missing = saved is None
    if task.shared(denoiser):
        missing = bool(agreed(torch.tensor([missing], device=task.device)))
    if missing:
        start = time.perf_counter()
        losses = _losses(denoiser, task, progress, name)
        samples = _samples(denoiser, task, progress, name)
        if results:
            results.save_part(name, {**losses, "seconds": time.perf_counter() - start}, {"samples": samples})
            saved = results.part(name)
    if not results:
        return None
    if not progress.console.is_terminal:
        progress.console.print(f"{name}: {saved[0]['seconds']:.1f} s")
    return saved


def _losses(denoiser: Denoiser, task: Task, progress: Progress, name: str) -> dict[str, list[float]]:
    ideal = Ideal(task.data, task.schedule, memory=task.memory, distributed=task.shared(denoiser))
    losses: list[tuple[Estimate, Estimate]] = []
    for t in progress.track(task.times, description=f"{name}: loss"):
        noisy = noisy_images(task.data, task.schedule, t, task.config.draws, task.config.seed, task.device)
        noisy = noisy._replace(x_t=noisy.x_t.to(task.dtype))
        losses.append(denoising_loss(denoiser, noisy, ideal.denoise(noisy.x_t, t)))
    loss, excess = zip(*losses, strict=True)
    return {
        "loss": [e.value for e in loss],
        "loss_stderr": [e.stderr for e in loss],
        "excess": [e.value for e in excess],
        "excess_stderr": [e.stderr for e in excess],
    }


def _samples(denoiser: Denoiser, task: Task, progress: Progress, name: str) -> Tensor:
    run = sampler(task.config.sampler)(denoiser, task.config.steps, seed=task.config.seed)
    return run(shared_noise(task).to(task.device), progress=progress, description=f"{name}: samples").images.cpu()


def shared_noise(task: Task) -> Tensor:
    return initial_noise(task.schedule, (task.samples, *task.data.images.shape[1:]), task.config.seed, task.dtype)
