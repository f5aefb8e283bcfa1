"""What training images and classes are called: by number, and where they came from a folder by file and subfolder."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from theory.data import ImageSet
from theory.data.search import pictures

FOLDER = "folder:"


@dataclass(frozen=True)
class Names:
    """Names of the images with positive weight, numbered as machines number them."""

    data: ImageSet

    @cached_property
    def _kept(self) -> list[int]:
        return (self.data.weights > 0).nonzero()[:, 0].tolist()

    @cached_property
    def _files(self) -> list[Path] | None:
        """Relative to the folder, in the order of the images; None where there is no folder, or it has changed since."""
        if not self.data.name.startswith(FOLDER):
            return None
        root = Path(self.data.name.removeprefix(FOLDER))
        files = [file.relative_to(root) for file in pictures(root)]
        return files if len(files) == len(self.data) else None

    def image(self, number: int) -> str | None:
        """The file of an image."""
        return None if self._files is None else self._files[self._kept[number]].as_posix()

    def label(self, number: int) -> str | None:
        """The class of an image: its subfolder, or a number."""
        if self.data.labels is None:
            return None
        if self._files is not None:
            file = self._files[self._kept[number]]
            return file.parts[0] if len(file.parts) > 1 else ""
        return str(int(self.data.labels[self._kept[number]]))
