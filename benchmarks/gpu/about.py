"""The card and the software that numbers belong to."""

from importlib.metadata import PackageNotFoundError, version

import torch

from theory.results import versions


def about(device: str) -> dict:
    """The device, the ``card`` (name, memory in MB, compute capability, multiprocessors) and the ``versions``."""
    if device != "cuda":
        return {"device": device, "card": {"name": f"none: CPU, {torch.get_num_threads()} threads"}, "versions": _versions()}
    found = torch.cuda.get_device_properties(0)
    card = {
        "name": found.name,
        "memory_mb": found.total_memory >> 20,
        "capability": f"{found.major}.{found.minor}",
        "multiprocessors": found.multi_processor_count,
        "exponentials_per_second": exponentials(torch.device("cuda", 0)),
    }
    return {"device": device, "card": card, "versions": _versions()}


def exponentials(device: torch.device) -> float | None:
    """How many float32 exponentials the units of a card for them can make in a second, 16 a clock each; None where that is not known."""
    if device.type != "cuda":
        return None
    found = torch.cuda.get_device_properties(device)
    kilohertz = getattr(found, "clock_rate", None)
    return 16.0 * 1e3 * kilohertz * found.multi_processor_count if kilohertz else None


def _versions() -> dict[str, str | None]:
    cudnn = torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None
    return {**versions(), "triton": _installed("triton"), "cuda": torch.version.cuda, "cudnn": str(cudnn) if cudnn else None}


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
