"""How large everything is: on a card, and small enough to see on a CPU that it runs."""

from dataclasses import dataclass
from shlex import split

from benchmarks.gpu.case import Case, beside
from empirical.networks import NETWORKS

SIGMA = 0.3
RTOL = 1e-5  # moves a pixel by less than what float32 may
HIGH = 0.98  # below it a whole image is like one training image alone, and its mean tells nothing of the weights


@dataclass(frozen=True)
class Sizes:
    """What to run.

    Attributes:
        cases: Scores to measure.
        networks: Networks to train.
        train, compare, solve, tests: Options of these commands.
    """

    cases: list[Case]
    networks: list[str]
    train: list[str]
    compare: list[str]
    solve: list[str]
    tests: list[str]


def cards() -> list[Case]:
    """What the kernels of windows are for, by these alone: first of all, whether they are right, then how fast they are; and IS and ES."""
    by, less = {"engine": "windows"}, {"rtol": RTOL}
    patches = [(border, k) for border in ("circular", "zeros") for k in (3, 5, 9, 17)]
    return [
        Case("equivariant_local", "circular", 3, 4, 1, SIGMA, **by),
        *(Case("equivariant_local", border, k, 5000, 1, SIGMA, **by) for border, k in patches),
        *(
            Case("equivariant_local", "circular", k, 5000, 1, sigma, **how)  # beside the exact sum, what leaving out gains
            for sigma, k in ((0.02, 3), (0.02, 17), (0.1, 9))
            for how in (by, less)
        ),
        *(Case("equivariant_local", "circular", k, 5000, 1, HIGH, **by) for k in (3, 17)),
        Case("equivariant_local", "zeros", 9, 5000, 1, 0.02, **less),
        *(Case("equivariant_local", "circular", k, 528, batch, SIGMA, **by) for k in (3, 9, 17) for batch in (1, 64)),
        Case("equivariant_local", "circular", 9, 5000, 1, SIGMA, side=28, channels=1, **by),
        *(Case("equivariant_local", border, 9, 500, 1, SIGMA, side=64, **by) for border in ("circular", "zeros")),
        Case("equivariant_local", "circular", 17, 200, 1, SIGMA, side=96, **by),
        Case("equivariant_local", "zeros", 5, 500, 1, SIGMA, side=33, **by),
        *(Case("local", border, k, 5000, 1, SIGMA, **by) for border in ("zeros", "circular") for k in (3, 17)),
        Case("equivariant_local", "circular", 9, 50_000, 1, SIGMA, **by),
        Case("equivariant_local", "zeros", 9, 50_000, 20, SIGMA, **by),  # a fifth of a step of a sampler of 100 images
        Case("ideal", None, None, 50_000, 64, HIGH),
        Case("ideal", None, None, 50_000, 64, HIGH, "matmul"),
        Case("equivariant", None, None, 5000, 1, HIGH),
        Case("ideal", None, None, 50_000, 64, HIGH, graph=True),
        *(Case("equivariant_local", "circular", 9, 528, 1, SIGMA, graph=graph, **by) for graph in (False, True)),
    ]


def full() -> Sizes:
    """For a card: few minutes in all."""
    scores = [
        Case("equivariant_local", "zeros", 3, 1, 1, SIGMA),  # small enough for the dense engine
        *(Case("equivariant_local", border, k, 500, 1, SIGMA) for border in ("circular", "zeros") for k in (3, 9, 17)),
        *(Case("equivariant_local", "circular", 9, 500, 1, sigma) for sigma in (0.02, HIGH)),
        *(Case("ideal", None, None, 5000, batch, HIGH) for batch in (1, 64)),
        Case("equivariant", None, None, 500, 1, HIGH),
        *(Case("local", "zeros", k, 5000, 1, SIGMA) for k in (3, 17)),
        *(Case("equivariant_local", border, k, 5000, 1, SIGMA) for border, k in (("circular", 3), ("zeros", 17), ("circular", 17))),
    ]
    return Sizes(
        cases=list(dict.fromkeys([*cards(), *beside(scores)])),  # each once
        networks=list(NETWORKS),
        train=split("--steps 500 --every 250 --samples 100"),
        compare=split("--samples 500 --steps 20 --levels 4 --draws 500"),
        solve=split("--levels 2 --draws 500 --samples 500 --steps 20 --images 50000 --fresh 1000 --features 32"),
        tests=["-m", "cuda"],
    )


def smoke() -> Sizes:
    """To see that it runs."""
    scores = [
        *(Case("equivariant_local", border, 3, count, 1, SIGMA) for border, count in (("circular", 4), ("zeros", 1))),
        Case("local", "zeros", 5, 4, 1, SIGMA),
        Case("equivariant", None, None, 1, 1, HIGH),
        Case("ideal", None, None, 8, 2, HIGH),
    ]
    return Sizes(
        cases=[
            Case("equivariant_local", "zeros", 3, 3, 2, SIGMA, "windows", side=9, channels=1),
            Case("equivariant_local", "zeros", 3, 12, 2, 0.02, side=9, rtol=RTOL),
            Case("equivariant_local", "zeros", 3, 3, 2, SIGMA, "windows", side=9, graph=True),
            *beside(scores),
        ],
        networks=["attention"],
        train=split("--steps 4 --every 2 --samples 4 --batch 4"),
        compare=split("--samples 4 --steps 2 --levels 1 --draws 8"),
        solve=split("--levels 1 --draws 8 --samples 4 --steps 2 --images 256 --fresh 100 --features 8 --families identity"),
        tests=["tests/test_noise.py", "-k", "just_inside"],
    )
