"""The numbers under the pictures: what samples of each model obey and copy, and how well models agree with one of them."""

import math

from empirical.compare import agreement, judged
from figures.explorer.models import Shown
from theory.data import ImageSet
from theory.types import Images


def reference(shown: list[Shown]) -> int:
    """Number of the model that others are held against: the first network, or the first model."""
    return next((i for i, model in enumerate(shown) if model.kind == "network"), 0)


def measured(shown: list[Shown], samples: list[Images], data: ImageSet) -> dict:
    """JSON values: ``reference``, ``count``, and for each model what `empirical.compare` reports of it, and of it with the reference."""
    truth = reference(shown)
    return {
        "reference": truth,
        "count": len(samples[0]),
        "models": [
            _finite({**judged(mine, data), **({} if i == truth else {"pair": agreement(samples[truth], mine, data)})})
            for i, mine in enumerate(samples)
        ],
    }


def _finite(values):
    """NaN, which JSON has not (a constant sample has no correlation), as None."""
    if isinstance(values, dict):
        return {key: _finite(value) for key, value in values.items()}
    return None if isinstance(values, float) and not math.isfinite(values) else values
