"""The solved score of a network with global attention: of its own family where that is known, of ``full`` for networks from elsewhere."""

from pathlib import Path

import torch
from rich.progress import Progress

from empirical.members import ELS, Kind, kind
from theory.data.imageset import ImageSet
from theory.denoiser import Denoiser
from theory.stationarity import solve
from theory.stationarity.options import Options

FALLBACK = "full"


def family_of(network: Denoiser) -> Kind | None:
    """The family of a network of ours with attention; None for any other."""
    found = kind(network)
    return found if isinstance(found, Kind) and found.family != ELS else None


def solved(
    network: Denoiser, data: ImageSet, times: list[float], patch: int, folder: Path, device: torch.device, progress: Progress
) -> dict:
    """Solve the stationarity condition at all levels, save it, and say what was solved.

    Args:
        network: The network.
        data, times: Training set and levels.
        patch: What a pixel sees besides attention, for a network from elsewhere: the median of its calibrated patches.
        folder: Where to save it, under the name of the family.
        device, progress: Where it is solved and shown.
    """
    own = family_of(network)
    options = {"prediction": own.prediction if own else _prediction(network)}
    if own:
        options |= {"strength": own.strength, "beta": own.beta}
    family = own.family if own else FALLBACK
    task = progress.add_task(f"attention: {family}", total=1.0)
    size, border = (own.patch_size, own.border) if own else (patch, "zeros")
    found = solve(
        data, network.schedule, (family,), times=tuple(times), patch_size=size, border=border, options=Options.of("quick", **options),
        device=device, report=lambda p: progress.update(task, completed=p.share),
    )[family]  # fmt: skip
    progress.remove_task(task)
    found.save(folder / family)
    return {"family": family, "patch_size": list(own.patch_size) if own else [patch, patch], **options, "converged": bool(found.converged)}


def _prediction(network: Denoiser) -> str:
    """What a network from elsewhere predicts; the mean itself where it doesn't say."""
    return getattr(network, "prediction", "sample")
