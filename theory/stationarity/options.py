"""How to solve."""

import math
from dataclasses import dataclass, fields, replace

from theory.errors import InputError, choices
from theory.predictions import PREDICTIONS

EVERYWHERE = (0.0, math.inf)  # all of sigma / alpha
FINEST = 6  # refinement: 64 knots for each level
LARGEST = 1e30  # strength and beta are numbers of float32, with room to spare

# How much is put into a solve. "quick" shows the effect in minutes, "full" is as good as we know how to.
QUALITIES = {
    "quick": {"features": 64, "images": 200_000},
    "standard": {"features": 64, "images": 1_200_000, "challenge": True},
    "full": {"features": 128, "images": 4_000_000, "refinement": 1, "challenge": True, "fresh": 10_000},
}


@dataclass(frozen=True)
class Options:
    """How to solve. Everything here determines the numbers.

    Attributes:
        prediction: What the network outputs: ``"sample"``, ``"epsilon"``, ``"score"`` or ``"v"``. It changes the optimum where
            values are tied to another role.
        strength: Strength ``lambda`` of the attention.
        beta: Inverse temperature of the attention.
        embedding: Numbers ``d`` in a query or key of the families where it is free.
        features: Learned features of a patch.
        images: Fresh noisy images to solve on, over all levels together, in whole pools of at most 4,864 (`Pools`); each is
            used two or four times. Where few images matter, these are chosen from up to eight times as many (`theory.stationarity.choice`).
        refinement: How often the intervals between levels are halved: ``2**refinement - 1`` more knots in each, equally spaced in
            ``log(sigma / alpha)``, at which functions are solved too.
        challenge: Whether to solve a second time, from another start, with half the features and images.
        fresh: Other noisy images, of each level, to judge by.
        seed: Seed of everything random.
    """

    prediction: str = "sample"
    strength: float = 1.0
    beta: float = 1.0
    embedding: int = 32
    features: int = 64
    images: int = 200_000
    refinement: int = 0
    challenge: bool = False
    fresh: int = 3000
    seed: int = 0

    def __post_init__(self) -> None:
        for f in fields(self):
            value, kind = getattr(self, f.name), {int: int, float: (int, float), str: str, bool: bool}[f.type]
            if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
                raise InputError(f"{f.name} {value!r}", f"a value of type {f.type.__name__}", "correct the option")
        checks = (
            ("prediction", self.prediction in PREDICTIONS, choices(PREDICTIONS)),
            ("features", self.features >= 2, "at least 2"),
            ("images", self.images >= 1, "at least 1"),
            ("refinement", 0 <= self.refinement <= FINEST, f"0 to {FINEST}"),
            ("fresh", self.fresh >= 100, "at least 100"),
            ("embedding", self.embedding >= 1, "at least 1"),
            ("beta", 0 < self.beta <= LARGEST, f"a positive number up to {LARGEST:g}"),
            ("strength", abs(self.strength) <= LARGEST, f"a number between -{LARGEST:g} and {LARGEST:g}"),
            ("seed", self.seed >= 0, "0 or more"),
        )
        for name, fit, expected in checks:
            if not fit:
                raise InputError(f"{name} {getattr(self, name)!r}", expected, "correct the option")

    @classmethod
    def of(cls, quality: str, **changes) -> "Options":
        """Those of a quality, a key of `QUALITIES`; ``changes`` that are not None take precedence.

        Raises:
            InputError: If there is no such quality, or a value does not fit.
        """
        if quality not in QUALITIES:
            raise InputError(f"quality {quality!r}", choices(QUALITIES), "choose one of these")
        return cls(**{**QUALITIES[quality], **{name: value for name, value in changes.items() if value is not None}})

    @property
    def halved(self) -> "Options":
        """Those of the second solve."""
        return replace(self, features=max(2, self.features // 2), images=max(1, self.images // 2))
