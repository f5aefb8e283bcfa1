"""What to train, and what is refused before anything is computed."""

from dataclasses import dataclass

from theory.data import ImageSet
from theory.errors import InputError
from theory.predictions import check_prediction

PRECISIONS = ("float32", "tf32", "bf16")
DECAYS = ("cosine", "tail", "constant")
OPTIMISERS = ("soap", "adam")
TARGETS = ("clean", "posterior")
MOST, WIDEST = 10**9, 10**5  # steps, images or samples; channels or layers


@dataclass(frozen=True)
class Config:
    """What to train. Everything here determines the weights.

    Raises:
        InputError: If a number is out of its range, or a name unknown.
    """

    dataset: str
    model: str
    prediction: str = "sample"
    target: str = "clean"
    padding: str = "zeros"
    hidden: int | None = None
    embedding: int | None = None
    layers: int | None = None
    trunk: str | None = None
    attention: bool = False
    conditional: bool = False
    schedule: str = "cosine"
    steps: int = 30_000
    batch: int = 128
    optimiser: str = "soap"
    rate: float = 1e-3
    decay: str = "cosine"
    focus: float = 0.0
    begin: float | None = None
    average: float = 0.999
    clip: float = 1.0
    precision: str = "float32"
    every: int = 1000
    samples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        checks = (
            ("steps", 1 <= self.steps <= MOST, f"1 to {MOST}"),
            ("batch", 1 <= self.batch <= MOST, f"1 to {MOST}"),
            ("rate", 0 < self.rate <= 1e30, "a positive number up to 1e30"),
            ("optimiser", self.optimiser in OPTIMISERS, f"one of {', '.join(OPTIMISERS)}"),
            ("decay", self.decay in DECAYS, f"one of {', '.join(DECAYS)}"),
            ("focus", 0 <= self.focus <= 1, "a share, 0 to 1"),
            ("begin", self.begin is None or 0 < self.begin <= 1e6, "a positive number up to 1e6"),
            ("average", 0 <= self.average < 1, "0 <= average < 1"),
            ("clip", self.clip > 0, "a positive number"),
            ("precision", self.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}"),
            ("target", self.target in TARGETS, f"one of {', '.join(TARGETS)}"),
            ("every", self.every >= 1, "at least 1"),
            ("samples", 1 <= self.samples <= MOST, f"1 to {MOST}"),
            ("seed", 0 <= self.seed < 2**31, "0 to 2147483647"),
            *((name, (x := getattr(self, name)) is None or x <= WIDEST, f"at most {WIDEST}") for name in ("hidden", "embedding", "layers")),
        )
        for name, good, expected in checks:
            if not good:
                raise InputError(f"--{name} {getattr(self, name)}", expected, "see --help")
        check_prediction(self.prediction)

    def network(self, data: ImageSet) -> dict:
        """Name and options of the network."""
        options = {"padding": self.padding, "hidden": self.hidden, "embedding": self.embedding, "layers": self.layers, "trunk": self.trunk}
        options = {k: v for k, v in options.items() if v is not None}
        if self.attention:
            options["attention"] = True
        if self.conditional:
            options["classes"] = _classes(data)
        return {"name": self.model, "options": options}


def given(config: dict) -> dict:
    """What a configuration gives: an option that is None is as good as missing, as in checkpoints from before it existed.

    Before there was a choice, all optimisers were Adam.
    """
    return {"optimiser": "adam", **{name: value for name, value in config.items() if value is not None}}


def _classes(data: ImageSet) -> int:
    if data.labels is None:
        raise InputError(f"--conditional with data set {data.name!r}", "a data set with labels", "leave out --conditional")
    if int(data.labels.min()) < 0:
        raise InputError(f"label {int(data.labels.min())}", "labels from 0", "number the classes from 0")
    return int(data.labels.max()) + 1
