"""The training images of a machine as sums read them, and everything that is kept of them: one owner, one budget."""

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from theory.centred import Centred, centred, mean_image
from theory.data.imageset import ImageSet
from theory.engines import ranks
from theory.engines.state import State
from theory.types import Images, TrainingImages


class Training:
    """Training images class by class, centred, in any precision and place; of this process alone where they are divided.

    Args:
        data: The training set.
        centre: From the mean ``(1, C, H, W)`` of the images of a class, what is subtracted from all of them: a shift that no posterior
            feels, and rounding errors do.
        memory: Working memory of sums, in bytes. A quarter of it may be filled with what is made of the images and kept.
        distributed: Whether the images are divided over the processes of ``torch.distributed``'s default group.
    """

    def __init__(self, data: ImageSet, centre: Callable[[Tensor], Tensor], memory: int, distributed: bool) -> None:
        self.data, self.memory, self.distributed = data, memory, distributed
        self._centre = centre
        if distributed:
            ranks.require_group()
        self.free()

    def free(self) -> None:
        """Forget everything that was kept; it is made again when it is needed."""
        self._kept: dict[Hashable, Any] = {}
        self._sizes: dict[Hashable, int] = {}

    def kept(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What was made for a key before, or is made now."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def forget(self, key: Hashable) -> None:
        """Give up what is kept for a key."""
        self._kept.pop(key, None)
        self._sizes.pop(key, None)

    @property
    def room(self) -> int:
        """Bytes that may still be filled."""
        return self.memory // 4 - sum(self._sizes.values())

    def granted(self, key: Hashable, size: int) -> bool:
        """Whether so many bytes more may be kept for a key; they count until it is forgotten."""
        fits = size <= self.room
        self._sizes[key] = self._sizes.get(key, 0) + size * fits
        return fits

    def chosen(self, label: int | None) -> tuple[Tensor, Tensor]:
        """Images of a class as they are, and their weights."""

        def make() -> tuple[Tensor, Tensor]:
            chosen = self.data.select(label)
            mine = ranks.own_share(len(chosen.images)) if self.distributed else slice(None)
            return chosen.images[mine], chosen.weights[mine]

        return self.kept(("chosen", label), make)

    def own(self, label: int | None) -> tuple[Tensor, Tensor]:
        """Images of a class as they are, and their log-weights in float64."""
        images, weights = self.chosen(label)
        return images, torch.log(weights.double())

    def weighed(self, label: int | None, like: Tensor) -> Tensor:
        """Log-weights of the images of a class, with the dtype and device of ``like``."""
        return self.kept(("weighed", label, like.dtype, like.device), lambda: self.own(label)[1].to(like))

    def centre_on(self, label: int | None, device: torch.device) -> Tensor:
        """`centre`, on a device."""
        return self.kept(("centre", label, device), lambda: self.centre(label).to(device))

    def centre(self, label: int | None) -> Tensor:
        """What is subtracted from the images of a class, of all processes."""
        return self.kept(("centre", label), lambda: self._centre(mean_image(self.data.select(label).images)))

    def centred(self, label: int | None, like: Tensor) -> tuple[TrainingImages, Tensor]:
        """Centred images of a class and their log-weights, with the dtype and device of ``like``."""

        def make() -> tuple[TrainingImages, Tensor]:
            images, log_weights = self.own(label)
            parts = images, self.centre(label), like.dtype, like.device
            return Centred(*parts) if self.data.on_disk else centred(*parts), log_weights.to(like)

        return self.kept(("centred", label, like.dtype, like.device), make)

    def exact(self, label: int | None, like: Tensor) -> Centred:
        """`centred` in float64, centred as they are read: centring rounds float32 numbers."""
        return Centred(self.own(label)[0], self.centre(label), torch.float64, like.device)

    def shifted(self, label: int | None, x: Images, alpha: Tensor) -> Images:
        """Noisy images, centred as the training images are, in float64."""
        return x.double() - alpha.reshape(-1, 1, 1, 1) * self.centre_on(label, x.device)

    def agreed(self, choices: Tensor) -> Tensor:
        """Choices that all processes must make alike."""
        return ranks.agreed(choices) if self.distributed else choices

    def complete(self, state: State) -> State:
        """The state after all training images, from that after those of this process."""
        return ranks.merged(state) if self.distributed else state
