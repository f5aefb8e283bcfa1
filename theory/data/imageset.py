"""The one container every data source returns."""

import hashlib
from collections.abc import Sequence
from dataclasses import InitVar, dataclass, replace
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from theory.data.pixels import PIECE, SIGNED, UNIT, check_pixels
from theory.data.unit import Unit
from theory.errors import InputError
from theory.types import Images, Int, Weights


@runtime_checkable
class Rule(Protocol):
    """A rule the images of a data set obey, that samples can be checked against."""

    baseline: float  # probability that random cells obey it

    def decode(self, images: Images) -> Int[Tensor, "B cells"]:
        """The colour of each cell as a number, -1 where it is not a colour."""
        ...

    def consistent(self, images: Images) -> Tensor:
        """Whether each image obeys the rule, with shape ``(B,)``."""
        ...


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Training images with weights and labels.

    Attributes:
        images: Pixels in [-1, 1] with shape ``(N, C, H, W)``, float32.
        name: Where they come from.
        weights: Probability of each image with shape ``(N,)``, float64, summing to 1; uniform if None is given.
        labels: Class of each image with shape ``(N,)``, int64, or None.
        patch_size: Patch ``(height, width)`` that suits the data, used where none is asked for.
        rule: The rule the images obey, if there is one.
        on_disk: Whether the images are a file mapped into memory: machines then read them in pieces and never copy them as a whole.
        range: Of the images given: ``"signed"`` for [-1, 1]; ``"unit"`` for [0, 1], scaled to [-1, 1] as 2 x - 1; without one
            they are taken in [-1, 1], with an `InputWarning` where all lie in [0, 1].

    Raises:
        InputError: If there is no image, a pixel is NaN or outside its range, or weights or labels don't fit.
    """

    images: Tensor  # not typed by shape: what a user gives is checked below, in words
    name: str
    weights: Tensor | None = None
    labels: Tensor | None = None
    patch_size: tuple[int, int] = (3, 3)
    rule: Rule | None = None
    on_disk: bool = False
    range: InitVar[str | None] = None

    def __post_init__(self, range: str | None) -> None:
        images = self.images
        if images.ndim != 4 or 0 in images.shape:
            raise InputError(
                f"{self.name}: images of shape {tuple(images.shape)}",
                "at least one image, shape (N, C, H, W)",
                "check the source of the images",
            )
        check_pixels(images, self.name, range)
        if range == UNIT:
            images = Unit.of(images.to(torch.float32)) if self.on_disk else images.double() * 2 - 1
        object.__setattr__(self, "images", images if isinstance(images, Unit) else images.to(torch.float32))
        object.__setattr__(self, "weights", self._checked_weights())
        object.__setattr__(self, "labels", self._checked_labels())

    @classmethod
    def of(cls, dataset: Any, name: str = "dataset", **options) -> "ImageSet":
        """The images of a dataset of torch, torchvision, Hugging Face, or any other that has a length and items.

        Args:
            dataset: Items are a picture (Pillow), a tensor ``(C, H, W)`` or an array ``(H, W, C)``, alone, as ``(image, label)``, or in
                a dictionary as ``image`` and ``label``. Transforms have to be fixed: the theory needs the images a network was trained on.
            name: Where they come from.
            options: ``count``, the first so many; ``classes``, as in ``"3+5"``; ``size`` and ``grey``, of pictures and uint8; ``range`` of
                floating point pixels, ``"unit"`` for [0, 1] (as ``ToTensor`` makes them) or ``"signed"`` for [-1, 1].

        Raises:
            InputError: If there is no image, an item is random or no image, or sizes differ.
        """
        from theory.data.dataset import from_dataset

        return from_dataset(dataset, name, **options)

    def _checked_weights(self) -> Weights:
        count = len(self.images)
        if self.weights is None:
            return torch.full((count,), 1 / count, dtype=torch.float64)
        real = not self.weights.is_complex()
        weights = self.weights.to(torch.float64) if real else self.weights
        # A sum that overflows would make every weight zero.
        fit = real and weights.shape == (count,) and bool(weights.isfinite().all() and weights.sum().isfinite())
        if not fit or (weights < 0).any() or weights.sum() <= 0:
            raise InputError(
                f"{self.name}: weights {_few(self.weights)}",
                f"{count} finite weights, none negative, some positive",
                "check the weights",
            )
        return weights / weights.sum()

    def _checked_labels(self) -> Tensor | None:
        labels = self.labels
        if labels is None:
            return None
        if labels.shape != (len(self.images),) or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.uint64:
            raise InputError(
                f"{self.name}: labels {_few(labels)} of dtype {labels.dtype}",
                f"{len(self.images)} integers of at most 63 bits, one for each image",
                "number the classes",
            )
        return labels.to(torch.int64)

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything that matters: pixels, weights and labels (64 hexadecimal digits)."""
        digest = hashlib.sha256()
        for part in (self.images, self.weights, self.labels):
            if part is not None:
                digest.update(str((tuple(part.shape), part.dtype)).encode())
                for piece in part.split(PIECE):
                    digest.update(piece.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def select(self, label: int | None = None) -> "ImageSet":
        """The images of a class (all if None), without those of weight zero.

        Raises:
            InputError: If there are no labels, or none of that class; or if images on disk do not lie side by side.
        """
        keep = self.weights > 0
        if label is not None:
            keep = keep & self._labelled(label)
        if keep.all():
            return self
        if not keep.any():
            raise InputError(f"label {label}", "a class with an image of positive weight", "check the weights")
        if self.on_disk:
            keep = self._side_by_side(keep, label)
        labels = None if self.labels is None else self.labels[keep]
        return replace(self, images=self.images[keep], weights=self.weights[keep], labels=labels, range=SIGNED)

    def _side_by_side(self, keep: Tensor, label: int | None) -> slice:
        """The same choice as a slice, which copies nothing."""
        places = keep.nonzero()[:, 0]
        first, last = int(places[0]), int(places[-1])
        if last - first + 1 != len(places):
            what = "images of positive weight" if label is None else f"images of label {label}"
            raise InputError(
                f"{self.name}: {what} scattered over a file on disk",
                "them side by side",
                "sort the images of the file, for instance by label",
            )
        return slice(first, last + 1)

    def _labelled(self, label: int) -> Tensor:
        if self.labels is None:
            raise InputError(f"label {label}", f"no label: data set {self.name!r} has none", "leave out the label")
        found = self.labels == label
        if not found.any():
            classes: Sequence[int] = self.labels.unique().tolist()
            shown = ", ".join(map(str, classes[:20])) + (", ..." if len(classes) > 20 else "")
            raise InputError(f"label {label}", f"a label of data set {self.name!r}: {shown}", "choose one of these")
        return found

    def draw(self, count: int, seed: int) -> Images:
        """Images drawn by weight, with shape ``(count, C, H, W)``; the first ones do not depend on ``count``."""
        uniform = uniforms(count, seed)
        index = torch.searchsorted(self.weights.cumsum(0), uniform, right=True)  # right: never an image of weight zero
        index = index.clamp_(max=int(self.weights.nonzero()[-1]))  # where the sum rounds to just below 1
        return self.images[index]


def _few(numbers: Tensor) -> str:
    """Shape and first numbers, for an error."""
    return f"{numbers.flatten()[:4].tolist()}{'...' if numbers.numel() > 4 else ''} of shape {tuple(numbers.shape)}"


def uniforms(count: int, seed: int) -> Tensor:
    """Uniform numbers in [0, 1), float64; a longer draw begins with the shorter one."""
    if count < 0 or seed < 0:
        raise InputError(f"{count} draws with seed {seed}", "neither to be negative", "correct them")
    return torch.from_numpy(np.random.default_rng(seed).random(count))
