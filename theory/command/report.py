"""What ``report.json`` says."""

from dataclasses import asdict

import torch
from torch import Tensor

from theory.command.task import Task
from theory.data import ImageSet
from theory.metrics import Proportion, memorisation
from theory.results import versions
from theory.stationarity import SolvedScore


def told(solution: SolvedScore) -> dict:
    """What the report says of a solution: its certificates as one list over its knots for each field, and how it was found."""
    certificates = solution.certificates
    lists = {key: [c[key] for c in certificates] for key in certificates[0]}
    alpha, sigma = solution.schedule(torch.tensor(solution.setting.times, dtype=torch.float64))
    return {"ratios": (sigma / alpha).tolist(), **lists, **solution.descent, "certified": solution.certified}


def report_of(task: Task, parts: dict[str, tuple[dict, dict[str, Tensor]]], certificates: dict[str, dict]) -> dict:
    alpha, sigma = task.schedule(torch.tensor(task.times, dtype=torch.float64))
    return {
        "config": asdict(task.config),
        "versions": versions(),
        "data": {
            "name": task.data.name,
            "fingerprint": task.data.fingerprint,
            "images": len(task.data),
            "shape": list(task.data.images.shape[1:]),
            "patch_size": list(task.data.patch_size),
        },
        "device": str(task.device),
        "baseline": task.data.rule.baseline if task.data.rule else None,
        "levels": [{"t": t, "alpha": a, "sigma": s} for t, a, s in zip(task.times, alpha.tolist(), sigma.tolist(), strict=True)],
        "machines": {name: values for name, (values, _) in parts.items() if name not in certificates},
        "attention": {name: {**certificate, **_excess(parts[name][0])} for name, certificate in certificates.items()},
        "samples": {name: _judged(tensors["samples"], task.data) for name, (_, tensors) in parts.items()},
    }


def _excess(values: dict) -> dict:
    """What is measured of a solved score with the draws of the machines, beside its certificate."""
    return {key: values[key] for key in ("excess", "excess_stderr", "seconds")}


def _judged(samples: Tensor, data: ImageSet) -> dict[str, float]:
    """What samples obey, and what they copy."""
    copies = memorisation(samples, data)
    share = Proportion.of(copies.memorised)
    judged = {
        "count": len(samples),
        "nearest_distance": float(copies.distance.median()),
        "memorised": share.value,
        "memorised_low": share.low,
        "memorised_high": share.high,
    }
    if data.rule is not None:
        consistency = Proportion.of(data.rule.consistent(samples))
        judged |= {
            "consistency": consistency.value,
            "consistency_low": consistency.low,
            "consistency_high": consistency.high,
            "valid": float((data.rule.decode(samples) >= 0).all(1).double().mean()),
        }
    return judged
