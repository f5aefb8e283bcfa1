"""A training run from beginning to end: records, checkpoints, a log and a picture, stopping and going on."""

import json
import math
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path

import torch
from PIL import Image
from rich.progress import Progress
from torch import Tensor

from empirical.checkpoint import NAME, Checkpoint
from empirical.training.config import Config
from empirical.training.trainer import SHOWN, Trainer
from theory.data import ImageSet, load
from theory.errors import InputError
from theory.lock import contents, writing


class Clock:
    """Seconds since a start, and for each step since the last record."""

    def __init__(self, minutes: float) -> None:
        self.end = time.perf_counter() + 60 * minutes
        self.restart()

    def restart(self) -> None:
        """Begin to count steps."""
        self.began, self.steps = time.perf_counter(), 0

    def late(self) -> bool:
        """Whether the time is up."""
        return time.perf_counter() > self.end

    def each(self) -> float:
        """Seconds a step."""
        return (time.perf_counter() - self.began) / self.steps


def train(
    config: Config,
    data: ImageSet | None = None,
    *,
    out: Path | None = None,
    start: Checkpoint | None = None,
    device: str | torch.device = "cpu",
    resume: bool = False,
    minutes: float = math.inf,
    compiled: bool = False,
    graph: bool = True,
    tensorboard: bool = False,
    stopped: Callable[[], bool] = lambda: False,
    progress: Progress | None = None,
) -> Trainer:
    """Train, evaluate and save until the steps are done, the time is up or ``stopped`` says so.

    Args:
        config: What to train.
        data: The training set; loaded by the name in ``config`` if not given.
        out: Directory for the checkpoint, a log and a picture of samples; nothing is written without one.
        start: A checkpoint to begin with, as in `Trainer`.
        device: Where.
        resume: Whether to go on from the checkpoint in ``out``, if there is one.
        minutes: Stop after so long.
        compiled: Whether to compile the network.
        graph: Whether steps on CUDA are captured as a graph.
        tensorboard: Whether to write a TensorBoard log too.
        stopped: Asked after every step.
        progress: Where to show steps and loss.

    Raises:
        InputError: If an option does not fit, or ``out`` holds something else.
        DivergedError: If the loss is no longer a number; the last good checkpoint stays.
    """
    trainer = Trainer(config, load(config.dataset) if data is None else data, device, compiled, start, graph)
    _require_board(tensorboard)
    with nullcontext() if out is None else _claimed(out):
        return _trained(trainer, out, start, resume, minutes, tensorboard, stopped, progress)


def _trained(
    trainer: Trainer,
    out: Path | None,
    start: Checkpoint | None,
    resume: bool,
    minutes: float,
    tensorboard: bool,
    stopped: Callable[[], bool],
    progress: Progress | None,
) -> Trainer:
    config = trainer.config
    if progress:
        _tell(trainer, progress, start if not (resume and out is not None and (out / NAME).is_file()) else None)
    if out is not None:
        _prepare(trainer, out, resume)
    board = _board(out, tensorboard)
    task = progress.add_task(f"{config.model} seed {config.seed}", total=config.steps, completed=trainer.done) if progress else None
    clock, late = Clock(minutes), False
    while trainer.done < config.steps and not late:
        _step(trainer, clock)
        late = clock.late() or stopped()
        _keep(trainer, clock, late, out, board, progress)
        if progress:
            progress.advance(task)
    if progress:
        progress.remove_task(task)
    return trainer


def _keep(trainer: Trainer, clock: Clock, late: bool, out: Path | None, board, progress: Progress | None) -> None:
    """A record where one is due; otherwise a checkpoint where the run stops."""
    if _due(trainer):
        seconds = clock.each()
        _record(trainer, trainer.evaluate(), out, board, progress, seconds)
        clock.restart()
    elif late and out is not None:
        trainer.check()
        trainer.checkpoint().save(out / NAME)


def _step(trainer: Trainer, clock: Clock) -> None:
    """One step; a look at the loss after each on the CPU, and before records only where every look is a wait."""
    trainer.step()
    clock.steps += 1
    if trainer.device.type == "cpu" or _due(trainer):
        trainer.check()


def _due(trainer: Trainer) -> bool:
    """Whether a record is."""
    return trainer.done % trainer.config.every == 0 or trainer.done == trainer.config.steps


def _tell(trainer: Trainer, progress: Progress, start: Checkpoint | None) -> None:
    """What a user might not expect of a run."""
    name = trainer.config.model
    if start is not None:
        of = len(trainer.model.state_dict())
        progress.console.print(f"{name} starts with {trainer.taken} of its {of} tensors, those of {_called(start)}", highlight=False)
    if trainer.graph and not trainer.batches.capturable:
        told = f"posterior means of {trainer.data.name} are summed outside the captured graph: steps wait for them"
        progress.console.print(told, highlight=False)


def _claimed(out: Path) -> AbstractContextManager[None]:
    """Holds the lock on a directory that is new, empty or a training run's; others are not touched."""
    try:
        foreign = out.exists() and not (out / NAME).is_file() and (not out.is_dir() or any(contents(out)))
    except OSError as error:
        raise InputError(f"output directory {out} ({error.strerror})", "a directory that can be read", "choose another --out") from error
    if foreign:
        raise InputError(f"output directory {out}, which holds other files", "a new or empty directory", "choose another --out")
    return writing(out)


def _prepare(trainer: Trainer, out: Path, resume: bool) -> None:
    try:
        occupied = any(contents(out))
        if occupied:
            saved = Checkpoint.load(out)
            if not resume:
                raise InputError(
                    f"output directory {out}, with a checkpoint at step {saved.step}", "--resume, or a new directory", "choose one of these"
                )
            with _named(out):
                trainer.restore(saved)
        else:
            trainer.checkpoint().save(out / NAME)  # what can't be written is known before hours have passed
    except OSError as error:
        raise InputError(f"output directory {out} ({error.strerror})", "a directory that can be written", "choose another --out") from error


def _called(start: Checkpoint) -> str:
    told = start.origin()
    return f"{told['model']} seed {told['seed']} after {told['step']} steps"


@contextmanager
def _named(out: Path):
    """Says which directory an error is about."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{out}: {error.given}", error.expected, error.remedy) from error


def _require_board(wanted: bool) -> None:
    if wanted and find_spec("tensorboard") is None:
        raise InputError("--tensorboard without the package tensorboard", "it installed", "pip install tensorboard")


def _board(out: Path | None, wanted: bool):
    if not wanted:
        return None
    from torch.utils.tensorboard import SummaryWriter  # an option, and slow to import

    return SummaryWriter(str(out / "tensorboard"))


def _record(trainer: Trainer, samples: Tensor, out: Path | None, board, progress: Progress | None, seconds: float) -> None:
    """Checkpoint, log and picture after an evaluation."""
    record = trainer.history[-1]
    if out is not None:  # the checkpoint last: where it is finished, so is the rest
        (out / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in trainer.history))
        contact_sheet(samples[:SHOWN]).save(out / "samples.png")
        trainer.checkpoint().save(out / NAME)
    if board is not None:
        for name in ("loss", "consistency"):
            if name in record:
                board.add_scalar(name, record[name], trainer.done)
        board.flush()
    if progress:
        rule = f", consistent {100 * record['consistency']:.1f}%" if "consistency" in record else ""
        c = trainer.config
        progress.console.print(
            f"{c.model} seed {c.seed}: step {trainer.done}, loss {record['loss']:.4f}{rule} ({1000 * seconds:.1f} ms a step)",
            highlight=False,
        )


def contact_sheet(samples: Tensor, across: int = 16, scale: int = 8) -> Image.Image:
    """Samples side by side, clipped to the range a picture has."""
    n, channels, height, width = samples.shape
    down = -(-n // across)
    sheet = torch.ones(3, down * (height + 1) + 1, across * (width + 1) + 1)
    for i, sample in enumerate(samples):
        y, x = (i // across) * (height + 1) + 1, (i % across) * (width + 1) + 1
        sheet[:, y : y + height, x : x + width] = sample if channels == 3 else sample[:1]
    pixels = ((sheet.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(pixels).resize((sheet.shape[2] * scale, sheet.shape[1] * scale), Image.Resampling.NEAREST)


@contextmanager
def stop_signal():
    """Ctrl-C asks to stop after the step under way; a second one stops at once."""
    asked = []

    def ask(number, frame) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)
