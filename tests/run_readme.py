"""Runs what a page shows: every Python example, in one name space, and every ``python -m`` command, made small.

    python tests/run_readme.py README.md

A command gets options that make it small after its own (the last of equal options counts), so that what the page
says is parsed and run in its own order, each command finding what those before it wrote. Commands run in the current
directory. Some need files of the user's; these are made first.
"""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from PIL import Image

SOLVE = "--levels 3 --draws 50 --samples 20 --steps 5 --images 5000 --fresh 500 --features 16"
SMALL = {
    "theory.solve": SOLVE,
    "empirical.train": "--steps 40 --every 20 --samples 20 --batch 16",
    "empirical.compare": "--samples 20 --steps 5 --levels 2 --draws 50",
    "empirical.calibrate": "--levels 2 --draws 2",
    "empirical.explain": "--samples 12 --steps 4 --levels 2 --draws 8 --calibration 2",
    "empirical.reproduce": "--budget .001",
    "theory.provenance": "--steps 5",
    "figures.explore": "--samples 1 --steps 5 --levels 2 --draws 3",
    "figures.make": "",
    "figures.mosaic": "",
    "figures.loss": "",
}
UNCERTIFIED = 1  # exit code of a solve that is too small to be certified


def blocks(text: str, language: str) -> list[str]:
    """Contents of the fenced blocks of a language (``""``: none named)."""
    parts = re.split(r"^```(.*)$", text, flags=re.MULTILINE)  # text, fence, content, fence, text, ...
    return [parts[i + 1] for i in range(1, len(parts) - 2, 4) if parts[i].strip() == language]


def commands(text: str) -> list[list[str]]:
    """Commands in blocks without a language, without ``python -m``."""
    lines = [line.strip() for block in blocks(text, "") for line in block.splitlines()]
    return [shlex.split(line, comments=True)[2:] for line in lines if line.startswith("python -m ")]


def prepare() -> None:
    """The user's own files that commands name."""
    Path("pictures").mkdir(exist_ok=True)
    for i in range(4):
        pixels = torch.randint(0, 256, (40, 48, 3), generator=torch.Generator().manual_seed(i), dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(f"pictures/{i}.png")
    shutil.copytree("results", "runs/study", dirs_exist_ok=True)


def run(command: list[str]) -> None:
    module, *options = command
    small = [] if "--help" in options else shlex.split(SMALL[module])
    allowed = {0, UNCERTIFIED} if module == "theory.solve" else {0}
    print("$ python -m", *command, flush=True)
    done = subprocess.run([sys.executable, "-m", module, *options, *small], capture_output=True, text=True, check=False)
    if done.returncode not in allowed:
        sys.exit(f"{done.stdout}{done.stderr}exit code {done.returncode}")


def main(page: str) -> None:
    text = Path(page).read_text()
    examples, lines = blocks(text, "python"), commands(text)
    if lines:
        prepare()
    try:
        for line in lines:
            run(line)
    finally:
        shutil.rmtree("pictures", ignore_errors=True)
    names: dict = {}
    for block in examples:
        exec(compile(block, page, "exec"), names)
    print(f"{len(lines)} commands and {len(examples)} examples of {page} ran")
    if not examples:
        sys.exit(f"{page} has no examples: is it the right page?")


if __name__ == "__main__":
    main(sys.argv[1])
