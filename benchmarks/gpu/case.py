"""A score to measure: which machine, on how many images, by which engine or peer."""

from dataclasses import dataclass, replace

from theory.engines import NAMES
from theory.patches import border_blocks

SIDE = 32  # pixels of a photo crop
ENGINES = tuple(name for name in NAMES if name != "fourier")  # which serves ES alone, where `auto` takes it
PEERS = ("matmul", "attention")  # the fastest plain ways to the same sum
MOST = 500  # images that a peer lists the patches of: for more there is no room


@dataclass(frozen=True)
class Case:
    """One score of photo crops.

    Attributes:
        machine: A key of `theory.machines.MACHINES`.
        border, patch: For machines that see patches, else None.
        images: Training images.
        batch: Noisy images at a time.
        sigma: Noise level.
        engine: One of `ENGINES`, or one of `PEERS`.
        side: Height and width of the crops, in pixels.
        channels: 3, or 1 for grey ones.
        rtol: Share of the weight that may be left out.
        graph: Whether the score is replayed as a CUDA graph.
    """

    machine: str
    border: str | None
    patch: int | None
    images: int
    batch: int
    sigma: float
    engine: str = "auto"
    side: int = SIDE
    channels: int = 3
    rtol: float = 0.0
    graph: bool = False

    @property
    def pairs(self) -> int:
        """Pairs of a query and a candidate in the score of the whole batch.

        Of whole images ``B N``, of those with all shifts or of patches in their place ``B N H W``, and of patches everywhere
        ``B N`` times the sum over border classes of their squared numbers of pixels.
        """
        pixels = self.side**2
        if self.machine == "equivariant_local":
            blocks = border_blocks(self.side, self.side, (self.patch, self.patch)) if self.border == "zeros" else []
            each = sum((b.shape[0] * b.shape[1]) ** 2 for b in blocks) or pixels**2
        else:
            each = 1 if self.machine == "ideal" else pixels
        return self.batch * self.images * each

    @property
    def name(self) -> str:
        """A short name for tables."""
        patch = f" {self.border} {self.patch}" if self.patch else ""
        shape = f" {self.channels}x{self.side}x{self.side}" if (self.channels, self.side) != (3, SIDE) else ""
        how = f"{f', rtol {self.rtol:g}' if self.rtol else ''}{', graph' if self.graph else ''}"
        return f"{self.machine}{patch}, {self.images} images{shape}, batch {self.batch}, sigma {self.sigma:g}{how}"


def beside(scores: list[Case]) -> list[Case]:
    """Each score by all engines and, where one list of patches serves all pixels of a border class, by the peers."""
    cases = []
    for score in scores:
        listed = score.machine == "ideal" or (score.machine == "equivariant_local" and score.images <= MOST)
        cases += [replace(score, engine=engine) for engine in (*ENGINES, *(PEERS if listed else ()))]
    return cases
