"""Hugging Face datasets: parquet and arrow files on disk, or a name that the library ``datasets`` knows (extra ``hf``)."""

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from theory.data.choose import check_size, coloured, image_set, sized, specification, taken
from theory.data.dataset import IMAGE, LABEL, as_array
from theory.data.decode import alike, decoded
from theory.data.imageset import ImageSet
from theory.errors import InputError

EXTRA = "pip install 'score-machines[hf]'"


def hf(
    path: str,
    split: str = "train",
    column: str | None = None,
    label: str | None = None,
    count: int | None = None,
    classes: str | None = None,
    size: int | None = None,
    grey: bool = False,
    range: str | None = None,
) -> ImageSet:
    """Images of a dataset in the formats of Hugging Face.

    Args:
        path: A parquet or arrow file; a folder of parquet files, as a repository of the hub is; a folder that ``save_to_disk`` made; or a
            name on the hub, for which the library ``datasets`` is needed.
        split: Which part.
        column: Where the images are: encoded pictures or arrays; ``image`` or ``img`` if not given.
        label: Where integer classes are; ``label``, if there is such a column, if not given.
        count, classes, size, grey: As in `theory.data.folder.folder`; classes by number or name.
        range: Of floating point pixels, as in `ImageSet`.

    Raises:
        InputError: If a file is missing or damaged, a column is not there or holds no images, or the extra is not installed.
    """
    check_size(size)
    table = _table(path, split)
    images = _column(table, column, IMAGE, path)
    labels = None if label is None and not set(LABEL) & set(table.column_names) else _column(table, label, LABEL, path)
    options = {"split": split if split != "train" else "", "column": column, "label": label, "count": count, "classes": classes}
    name = specification("hf", path, **options, size=size, grey=grey, range=range)
    numbers = None if labels is None else _numbers(table.column(labels), labels, name)
    keep = taken(table.num_rows, numbers, count, classes, name, _names(table, labels))
    rows = table.column(images).take(keep) if len(keep) < table.num_rows else table.column(images)
    numbers = None if numbers is None else numbers[keep]
    return _images(rows, numbers, name, Path(path), size, grey, range)


def _images(rows: Any, labels: np.ndarray | None, name: str, root: Path, size: int | None, grey: bool, range: str | None) -> ImageSet:
    """An image set of a column of encoded pictures or of arrays."""
    import pyarrow as pa

    kind = rows.type.storage_type if isinstance(rows.type, pa.BaseExtensionType) else rows.type
    if pa.types.is_struct(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        if range is not None:
            raise InputError(f"range={range} with pictures of {name}", "no range: pixels are from 0 to 255", "leave it out")

        def tell(i: int) -> str:
            return f"{name}: row {i}"

        def read(i: int) -> np.ndarray:
            return decoded(_source(rows[i].as_py(), root, tell(i)), tell(i), size, grey or None)

        return image_set(alike(len(rows), read, tell, name, "ask for a common size or for grey=true, as in hf:DIR,size=32"), labels, name)
    arrays = _arrays(rows, kind, name)
    if arrays.dtype == np.uint8:
        if range is not None:
            raise InputError(f"range={range} with {name} of uint8", "no range: pixels are from 0 to 255", "leave it out")
        return image_set(sized(coloured(arrays, grey), size, name), labels, name)
    if grey or size is not None:
        raise InputError(f"size= or grey= with {name} of floating point pixels", "pictures or uint8", "leave them out")
    classes = None if labels is None else torch.from_numpy(labels)
    return ImageSet(torch.from_numpy(np.ascontiguousarray(arrays.transpose(0, 3, 1, 2))), name, labels=classes, range=range)


def _arrays(rows: Any, kind: Any, name: str) -> np.ndarray:
    """A column of nested lists as ``(N, H, W, C)``, with the numbers' own type."""
    import pyarrow as pa

    inner = kind
    while pa.types.is_list(inner) or pa.types.is_large_list(inner) or pa.types.is_fixed_size_list(inner):
        inner = inner.value_type
    expected = "encoded pictures, or arrays (C, H, W), (H, W, C) or (H, W) of uint8 or floating point numbers"
    if inner is kind or not (pa.types.is_uint8(inner) or pa.types.is_floating(inner)):
        raise InputError(f"{name} with images of type {kind}", expected, "name the column of the images, as in column=image")
    dtype = np.uint8 if pa.types.is_uint8(inner) else np.float32
    try:
        read = [np.array(row.as_py(), dtype=dtype) for row in rows]
        return np.stack([as_array(image, f"{name}: row {i}", None, False) for i, image in enumerate(read)])
    except (ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name} with arrays of several shapes ({error})", expected, "make them alike") from error


def _source(value: Any, root: Path, what: str) -> Path | io.BytesIO:
    """The bytes of a picture, or the file that a row names beside the data."""
    content = value.get("bytes") if isinstance(value, dict) else value
    if content:
        return io.BytesIO(content)
    named = value.get("path") if isinstance(value, dict) else None
    file = (root if root.is_dir() else root.parent) / named if named else None
    if file is None or not file.is_file():
        raise InputError(
            f"{what} without a picture" + (f" (it names {named})" if named else ""), "bytes of one in each row", "remove the row"
        )
    return file


def _column(table: Any, asked: str | None, usual: tuple[str, ...], path: str) -> str:
    """The name of a column: that asked for, or one of the usual names."""
    names = [asked] if asked is not None else [name for name in usual if name in table.column_names]
    if not names or names[0] not in table.column_names:
        given = f"hf:{path} with columns {', '.join(table.column_names)}"
        what = "column" if usual is IMAGE else "label"
        raise InputError(given, f"{asked!r}" if asked else f"one called {' or '.join(usual)}", f"name one, as in {what}=NAME")
    return names[0]


def _numbers(column: Any, name: str, data: str) -> np.ndarray:
    """Classes as integers."""
    import pyarrow as pa

    if not pa.types.is_integer(column.type) or column.null_count:
        given = f"{data}: labels in column {name!r} of type {column.type}" + (f", {column.null_count} missing" if column.null_count else "")
        raise InputError(given, "an integer for each image", "name another column, as in label=NAME")
    return column.to_numpy().astype(np.int64)


def _names(table: Any, labels: str | None) -> list[str]:
    """Names of the classes, where the file tells them."""
    try:
        features = json.loads((table.schema.metadata or {})[b"huggingface"])["info"]["features"]
        return list(features[labels]["names"])
    except (KeyError, ValueError, TypeError):
        return []


def _table(path: str, split: str) -> Any:
    """All rows of a split."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise InputError(f"hf:{path} without the package pyarrow", "the extra hf installed", EXTRA) from error
    root = Path(path)
    if not root.exists():
        return _by_name(path, split)
    files = [root] if root.is_file() else _files(root, split)
    try:
        tables = []
        for file in files:
            if file.suffix == ".parquet":
                tables.append(pq.read_table(file, memory_map=True))
            else:
                with pa.memory_map(str(file)) as source:
                    tables.append(pa.ipc.open_stream(source).read_all())
        table = pa.concat_tables(tables)
    except (pa.ArrowException, OSError) as error:
        told = str(error).splitlines()[0][:120]
        raise InputError(
            f"{files[0].parent} ({type(error).__name__}: {told})", "whole parquet or arrow files", "download it again"
        ) from error
    if not table.num_rows:
        raise InputError(f"hf:{path} without rows", "at least one image", "name another split")
    return table


def _files(root: Path, split: str) -> list[Path]:
    """The files of a split below a folder: parquet files with its name, or what ``save_to_disk`` wrote."""
    for saved in (root / split, root):
        if (saved / "state.json").is_file():
            told = json.loads((saved / "state.json").read_text())
            return [saved / entry["filename"] for entry in told["_data_files"]]
    files = sorted(f for f in root.rglob("*") if f.suffix in (".parquet", ".arrow") and not f.name.startswith("."))
    found = [f for f in files if split in [*f.relative_to(root).parts[:-1], *re.split(r"[-_.]", f.stem)]]
    if found:
        return found
    shown = ", ".join(str(f.relative_to(root)) for f in files[:5]) or "no parquet or arrow file"
    raise InputError(f"folder {root} with {shown}", f"files of the split {split!r}", "name another, as in split=test, or one file")


def _by_name(name: str, split: str) -> Any:
    """A dataset of the hub, or of the library's cache."""
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.endswith((".parquet", ".arrow")):
        raise InputError(
            f"hf:{name}, which does not exist", "a file, a folder, or a name on the hub such as ylecun/mnist", "correct the path"
        )
    try:
        import datasets
    except ImportError as error:
        raise InputError(f"hf:{name}, no folder, without the package datasets", "the extra hf installed, for names", EXTRA) from error
    try:
        return datasets.load_dataset(name, split=split).with_format("arrow")[:]
    except Exception as error:  # what the hub raises is of many kinds, and all of it means the same here
        told = f"{type(error).__name__}: {error}".splitlines()[0][:120]
        raise InputError(f"hf:{name} ({told})", "a dataset that can be had, and a split of it", "check the name and the network") from error
