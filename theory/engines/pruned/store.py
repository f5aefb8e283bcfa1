"""Trees kept on disk, under a hash of everything they are made of."""

import hashlib
import os
from dataclasses import fields
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from theory.engines.pruned import index
from theory.engines.pruned.index import Tree
from theory.errors import InputError
from theory.meetings import Meetings
from theory.types import TrainingImages

VARIABLE = "SCORE_MACHINES_CACHE"
VERSION = 1  # to be raised whenever the same images give other trees


def trees(images: TrainingImages, weights: Tensor, meetings: Meetings) -> list[Tree]:
    """The trees of `theory.engines.pruned.index.build`, from disk if they were built before.

    They are kept in the directory that the environment variable ``SCORE_MACHINES_CACHE`` names, or in ``score-machines`` of the
    user's cache; a tree takes 160 to 340 bytes for each different window.

    Raises:
        InputError: If the directory can't be written to, or a file in it is damaged.
    """
    path = directory() / f"{_name(images, weights, meetings)}.safetensors"
    try:
        if not path.exists():
            _save(path, index.build(images, weights, meetings))
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path}: {error}", "a place for the index of the candidates", f"free space, delete the file or set {VARIABLE}"
        ) from error
    names = [field.name for field in fields(Tree)]
    return [Tree(**{name: found[f"{number}.{name}"] for name in names}) for number in range(len(meetings.blocks))]


def directory() -> Path:
    """Where trees are kept."""
    if VARIABLE in os.environ:
        return Path(os.environ[VARIABLE])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "score-machines"


def _name(images: Tensor, weights: Tensor, meetings: Meetings) -> str:
    digest = hashlib.sha256(repr((VERSION, index.DIRECTIONS, index.ENTIRE, index.LEAF, tuple(images.shape), meetings)).encode())
    for part in (images, weights):
        digest.update(part.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _save(path: Path, built: list[Tree]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"{number}.{f.name}": getattr(tree, f.name).contiguous() for number, tree in enumerate(built) for f in fields(Tree)}
    partial = path.with_suffix(f".{os.getpid()}.partial")  # two processes may build the same
    try:
        save_file(tensors, partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
