"""Results that figures are drawn from: a directory with the outputs of ``empirical.reproduce``.

``toy-grid/`` is that of ``reproduce toy`` and ``digits/`` that of ``reproduce digits``: each with ``report.json`` and
``samples.safetensors``, the toy with ``theory/`` too. ``field/digits/`` has the
report of ``reproduce field`` alone. ``results/`` of the repository is one.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from theory.data import ImageSet, load
from theory.errors import InputError
from theory.stationarity import SolvedScore

COMMITTED = Path(__file__).resolve().parents[1] / "results"
COMMANDS = {
    "toy-grid": "python -m empirical.reproduce toy",
    "digits": "python -m empirical.reproduce digits",
    "field/digits": "python -m empirical.reproduce field --models digits-resnet digits-unet digits-attention",
    "digits-attention": "python -m empirical.reproduce digits-attention",
}


@dataclass(frozen=True)
class Results:
    """A directory of results.

    Args:
        path: The directory.
    """

    path: Path = COMMITTED

    def report(self, study: str, name: str = "report.json") -> dict:
        """A JSON file of a study.

        Raises:
            InputError: If it is missing or damaged.
        """
        path = self.path / study / name
        try:
            report = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise self._missing(path, study, error) from error
        if name == "report.json" and not (isinstance(report, dict) and {"rows", "scale", "data"} <= report.keys()):
            raise InputError(f"{path} without rows, scale and data", "a report of empirical.reproduce", f"run {self._command(study)}")
        return report

    def require(self, *studies: str) -> None:
        """Refuse a directory without the reports of some studies, before anything is computed.

        Raises:
            InputError: If one is missing or damaged.
        """
        for study in studies:
            self.report(study)

    def samples(self, study: str) -> dict[str, Tensor]:
        """Samples of all models of a study, from the same noise.

        Raises:
            InputError: If they are missing or damaged.
        """
        path = self.path / study / "samples.safetensors"
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise self._missing(path, study, error) from error

    def data(self, study: str) -> ImageSet:
        """The data set of a study, which must be the same one still.

        Raises:
            InputError: If the data set of that name has changed.
        """
        told = self.report(study)["data"]
        data = load(told["name"])
        if data.fingerprint != told["fingerprint"]:
            raise InputError(f"results {self.path / study} of {told['name']} with other images", "those of today", "reproduce it again")
        return data

    def solution(self, study: str, family: str) -> SolvedScore:
        """A solved score of a study."""
        return SolvedScore.load(self.path / study / "theory" / "attention" / family, self.data(study))

    def _missing(self, path: Path, study: str, error: Exception) -> InputError:
        return InputError(f"results {path} ({type(error).__name__})", "a file empirical.reproduce wrote", f"run {self._command(study)}")

    def _command(self, study: str) -> str:
        return f"{COMMANDS[study]} --out {self.path / study}"
