"""What a figure is drawn from: plain values and arrays, saved beside the picture.

Computing and drawing are apart, so that a picture can be drawn again without computing again, and so that
every number in it can be looked up.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from theory.errors import InputError
from theory.results import versions, write_json, write_tensors

FORMAT = "figures/1"


@dataclass(frozen=True)
class Numbers:
    """What was computed for a figure.

    Attributes:
        values: Anything JSON holds.
        arrays: Tensors by name.
        config: What it was computed from.
    """

    values: dict
    arrays: dict[str, Tensor] = field(default_factory=dict)
    config: dict = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write ``path.safetensors`` and then ``path.json``, each atomically."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(path.with_suffix(".safetensors"), self.arrays)
        content = {"format": FORMAT, "config": self.config, "versions": versions(), "values": self.values}
        write_json(path.with_suffix(".json"), content)

    @classmethod
    def load(cls, path: Path) -> "Numbers":
        """Read what `save` wrote.

        Raises:
            InputError: If it is missing, damaged or not ours.
        """
        try:
            content = json.loads(path.with_suffix(".json").read_text())
            if content["format"] != FORMAT:
                raise KeyError("format")
            with safe_open(path.with_suffix(".safetensors"), "pt") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
            return cls(content["values"], arrays, content["config"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise InputError(
                f"numbers {path}.json ({type(error).__name__})", "the files a figure saved, whole", "draw it without --redraw first"
            ) from error
