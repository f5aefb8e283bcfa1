"""The theories of attention of a study: solved into its directory, or taken from where they are saved."""

from pathlib import Path

from empirical.study.job import Job
from theory.data import ImageSet
from theory.results import read_json
from theory.solve import run
from theory.stationarity import SolvedScore


def require_solutions(job: Job, families: list[str], data: ImageSet) -> None:
    """Where solutions are given, see that they can be read, before hours of training.

    Raises:
        InputError: If one is missing or damaged, or belongs to other data.
    """
    if "solved" in job.scale.theory:
        for name in families:
            SolvedScore.load(Path(job.scale.theory["solved"]) / name, data)


def solved(job: Job, families: list[str], **options) -> dict:
    """Solutions of all families, and what `theory.solve` reports of them; ``options`` are of `theory.command.options.Config`."""
    out, options = job.out / "theory", {**job.scale.theory, **options}
    if (out / "report.json").is_file() and not (out / "progress.json").is_file():
        done = read_json(out / "report.json")
        if set(families) <= set(done["attention"]) and all(done["config"][k] == v for k, v in options.items()):
            return done
    options = {"machines": ("equivariant_local",), "families": tuple(families), "samples": job.scale.samples, **options}
    return run(dataset=job.dataset, out=out, resume=True, device=job.device.type, **options)
