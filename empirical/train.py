r"""``python -m empirical.train``: train a network on noisy images.

Each step draws images by weight, times uniformly (a share ``focus`` of them from the middle only) and fresh
noise, and takes an Adam step on

.. math:: E\, w_t \| \mathrm{out} - T \|^2 , \qquad
          T = x_0,\ \epsilon \ \text{or} \ -\epsilon / \sigma_t , \qquad w_t = 1, 1 \ \text{or} \ \sigma_t^2 ,

for the prediction types ``sample``, ``epsilon`` and ``score``. With ``target="posterior"`` the exact posterior
mean ``E[x_0 | x_t]`` of the training set (of the class, where the network is told one) stands for ``x_0`` in ``T``. This
changes the loss by a constant, and so neither its gradient's mean nor any optimum; what the clean image adds to the
gradient's noise is gone.

The weight of a level moves the optimum of no network that is free at every level. Everything random in a step
comes from the seed and the number of the step, so that a run that was stopped and resumed ends with the same
bytes as one that was not.
"""

import argparse
import json
import math
import signal
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from empirical.checkpoint import NAME, Checkpoint, fit, share
from empirical.denoiser import NetworkDenoiser
from empirical.networks import NETWORKS, build
from theory.commandline import Parser, default_out, find_device, guarded
from theory.data import SOURCES, ImageSet, load
from theory.data.toy import Toy
from theory.errors import InputError
from theory.machines import Ideal
from theory.metrics import Proportion, noisy_images
from theory.noise import SCHEDULES, Schedule, schedule
from theory.patches import BORDERS
from theory.results import versions
from theory.sampling import DDIM, initial_noise
from theory.stationarity.basis import PREDICTIONS, check_prediction, predicted
from theory.types import Images

WARM_UP = 500  # steps in which the learning rate rises
EARLIEST = 1e-3  # times are drawn from here to 1: at t = 0 there is nothing to denoise
QUICK = 5.0  # learning rate of queries and keys relative to the rest
LOOK = 50  # steps between two looks at the loss on a GPU, where each costs a wait
SHOWN = 64  # samples in the picture
PRECISIONS = ("float32", "tf32", "bf16")
DECAYS = ("cosine", "tail", "constant")
TAIL = 0.25  # share of the steps in which the rate falls to 0 under "tail"
MIDDLE = (0.25, 0.75)  # times at which context has most to say: sigma/alpha .41 to 2.4 on the cosine schedule
TYPICAL, TYPICAL_TIMES = 64, (0.1, 0.3, 0.5, 0.7, 0.9)  # noisy images a network is settled on, at each of these times
MOST, WIDEST = 10**9, 10**5  # steps, images or samples; channels or layers
TARGETS = ("clean", "posterior")
RESUME = "the same command with --resume goes on from there"


@dataclass(frozen=True)
class Config:
    """What to train. Everything here determines the weights."""

    dataset: str
    model: str
    prediction: str = "sample"
    target: str = "clean"
    padding: str = "zeros"
    hidden: int | None = None
    embedding: int | None = None
    layers: int | None = None
    attention: bool = False
    conditional: bool = False
    schedule: str = "cosine"
    steps: int = 30_000
    batch: int = 128
    rate: float = 1e-3
    decay: str = "cosine"
    focus: float = 0.0
    average: float = 0.999
    clip: float = 1.0
    precision: str = "float32"
    every: int = 1000
    samples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        checks = (
            ("steps", 1 <= self.steps <= MOST, f"1 to {MOST}"),
            ("batch", 1 <= self.batch <= MOST, f"1 to {MOST}"),
            ("rate", 0 < self.rate <= 1e30, "a positive number up to 1e30"),
            ("decay", self.decay in DECAYS, f"one of {', '.join(DECAYS)}"),
            ("focus", 0 <= self.focus <= 1, "a share, 0 to 1"),
            ("average", 0 <= self.average < 1, "0 <= average < 1"),
            ("clip", self.clip > 0, "a positive number"),
            ("precision", self.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}"),
            ("target", self.target in TARGETS, f"one of {', '.join(TARGETS)}"),
            ("every", self.every >= 1, "at least 1"),
            ("samples", 1 <= self.samples <= MOST, f"1 to {MOST}"),
            ("seed", 0 <= self.seed < 2**31, "0 to 2147483647"),
            *((name, (x := getattr(self, name)) is None or x <= WIDEST, f"at most {WIDEST}") for name in ("hidden", "embedding", "layers")),
        )
        for name, good, expected in checks:
            if not good:
                raise InputError(f"--{name} {getattr(self, name)}", expected, "see --help")
        check_prediction(self.prediction)

    def network(self, data: ImageSet) -> dict:
        """Name and options of the network."""
        options = {"padding": self.padding, "hidden": self.hidden, "embedding": self.embedding, "layers": self.layers}
        options = {k: v for k, v in options.items() if v is not None}
        if self.attention:
            options["attention"] = True
        if self.conditional:
            options["classes"] = _classes(data)
        return {"name": self.model, "options": options}


def _classes(data: ImageSet) -> int:
    if data.labels is None:
        raise InputError(f"--conditional with data set {data.name!r}", "a data set with labels", "leave out --conditional")
    if int(data.labels.min()) < 0:
        raise InputError(f"label {int(data.labels.min())}", "labels from 0", "number the classes from 0")
    return int(data.labels.max()) + 1


class DivergedError(RuntimeError):
    """The loss is no longer a number."""


class Trainer:
    """The state of a training run, and its step.

    Args:
        config: What to train.
        data: The training set.
        device: Where.
        compiled: Whether to compile the network.
        start: A checkpoint whose averaged weights it begins with, where name and shape are the same.
    """

    def __init__(
        self,
        config: Config,
        data: ImageSet,
        device: str | torch.device = "cpu",
        compiled: bool = False,
        start: Checkpoint | None = None,
    ) -> None:
        self.config, self.data, self.device, self.schedule = config, data, torch.device(device), schedule(config.schedule)
        if config.precision != "float32" and self.device.type != "cuda":
            raise InputError(f"--precision {config.precision} on {self.device.type}", "float32 without CUDA", "leave it out")
        told = config.network(data)
        self.identity = {
            "config": asdict(config),
            "network": told,
            "data": {"name": data.name, "fingerprint": data.fingerprint, "shape": list(data.images.shape[1:])},
            "start": None if start is None else start.origin(),
        }
        self.model = build(told["name"], data.images.shape[1], seed=config.seed, **told["options"])
        if start is not None:
            start.require(data)
            self.taken = share(self.model, start)
            parts = [noisy_images(data, self.schedule, t, TYPICAL, config.seed) for t in TYPICAL_TIMES]
            times = torch.tensor(TYPICAL_TIMES).repeat_interleave(TYPICAL)
            self.model.settle(start.weights("average"), torch.cat([p.x_t for p in parts]), times)
        self.model.to(self.device)
        self.average = {name: x.clone() for name, x in self.model.state_dict().items()}
        self.optimiser = torch.optim.Adam(_groups(self.model), lr=config.rate, betas=(0.9, 0.99))
        self.images, self.cumulated = data.images.to(self.device), data.weights.cumsum(0).to(self.device)
        self.labels = data.labels.to(self.device) if config.conditional else None
        self.posterior = _posterior(data, self.schedule) if config.target == "posterior" else None
        self.generator = torch.Generator(self.device)
        self.forward: Callable[..., Tensor] = torch.compile(self.model) if compiled else self.model
        self.done, self.history = 0, []
        self.total, self.counted = torch.zeros((), dtype=torch.float64, device=self.device), 0

    def step(self) -> None:
        """One step of Adam; nothing in it depends on what ran before but weights and their moments."""
        self.generator.manual_seed(self.config.seed * 2**32 + self.done)
        torch.manual_seed(self.config.seed * 2**32 + self.done)  # for what networks draw themselves
        x, t, epsilon, label = self._batch()
        alpha, sigma = (c.to(x).reshape(-1, 1, 1, 1) for c in self.schedule(t))
        x_t = alpha * x + sigma * epsilon
        mean = x if self.posterior is None else self.posterior(x_t, t, label)
        target = self.model.target(predicted(self.config.prediction, mean, x_t, alpha, sigma))
        weight = sigma**2 if self.config.prediction == "score" else 1.0
        self.model.train()
        with self._precision():
            out = self.forward(x_t, t.to(x), label)
        loss = (weight * (out.float() - target).square()).mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        for group in self.optimiser.param_groups:
            group["lr"] = self._rate() * group["factor"]
        self.optimiser.step()
        self.done += 1
        self._average()
        self.total += loss.detach() * x[0].numel()
        self.counted += 1

    def _batch(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        n, generator, device = self.config.batch, self.generator, self.device
        uniform = torch.rand(3, n, dtype=torch.float64, device=device, generator=generator)
        index = torch.searchsorted(self.cumulated, uniform[0] * self.cumulated[-1], right=True).clamp_(max=len(self.images) - 1)
        x = self.images[index]
        low, high = MIDDLE
        t = torch.where(uniform[2] < self.config.focus, low + (high - low) * uniform[1], EARLIEST + (1 - EARLIEST) * uniform[1])
        epsilon = torch.randn(x.shape, device=device, generator=generator)
        return x, t, epsilon, None if self.labels is None else self.labels[index]

    def _precision(self):
        if self.config.precision == "bf16":
            return torch.autocast("cuda", torch.bfloat16)
        return _tf32() if self.config.precision == "tf32" else nullcontext()

    def _rate(self) -> float:
        c = self.config
        factor = min(1.0, (self.done + 1) / WARM_UP)
        if c.decay == "cosine":
            factor *= 0.5 * (1 + math.cos(math.pi * self.done / c.steps))
        elif c.decay == "tail":
            factor *= min(1.0, (c.steps - self.done) / (TAIL * c.steps))
        return c.rate * factor

    @torch.no_grad()
    def _average(self) -> None:
        keep = min(self.config.average, (1 + self.done) / (10 + self.done))  # young averages forget the start sooner
        for name, x in self.model.state_dict().items():
            self.average[name].lerp_(x, 1 - keep)

    def check(self) -> None:
        """Raise `DivergedError` if the loss is no longer a number."""
        if not torch.isfinite(self.total):
            raise DivergedError(self.done)

    def denoiser(self) -> NetworkDenoiser:
        """The network with averaged weights."""
        told = self.identity["network"]
        module = build(told["name"], self.data.images.shape[1], **told["options"]).to(self.device)
        module.load_state_dict(self.average)
        return NetworkDenoiser(module, self.schedule, self.config.prediction, self.data.images.shape[1:])

    def drawn(self) -> Images:
        """Samples of the network as it is; with classes, of each in turn."""
        count = self.config.samples if self.data.rule else SHOWN
        noise = initial_noise(self.schedule, (count, *self.data.images.shape[1:]), self.config.seed, device=self.device)
        label = None if self.labels is None else self.labels.unique()[torch.arange(count, device=self.device) % len(self.labels.unique())]
        return DDIM(self.denoiser(), 20)(noise, label).images.cpu()

    def evaluate(self) -> Tensor:
        """Record the mean loss since the last record and what samples obey; returns the samples."""
        samples = self.drawn()
        record = {"step": self.done, "loss": float(self.total) / self.counted}
        if self.data.rule:
            share = Proportion.of(self.data.rule.consistent(samples))
            record |= {"consistency": share.value, "consistency_low": share.low, "consistency_high": share.high}
        self.history.append(record)
        self.total.zero_()
        self.counted = 0
        return samples

    def checkpoint(self) -> Checkpoint:
        """Everything needed to go on, and to use the network."""
        tensors = {f"model.{k}": x for k, x in self.model.state_dict().items()} | {f"average.{k}": x for k, x in self.average.items()}
        for number, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{number}.{k}": x for k, x in state.items()}
        tensors |= {"progress.total": self.total, "progress.counted": torch.tensor(self.counted)}
        return Checkpoint(self.identity, self.done, list(self.history), versions(), tensors)

    def _moments(self, saved: Checkpoint) -> dict[int, dict[str, Tensor]]:
        """The state of Adam in a checkpoint: all of it, or none before the first step."""
        shapes = [tuple(p.shape) for group in self.optimiser.param_groups for p in group["params"]] if saved.step else []
        expected = {
            f"{i}.{key}": s for i, shape in enumerate(shapes) for key, s in (("exp_avg", shape), ("exp_avg_sq", shape), ("step", ()))
        }
        found = saved.weights("optimiser")
        if {name: tuple(x.shape) for name, x in found.items()} != expected:
            raise InputError("a checkpoint without the whole state of its optimiser", "one that empirical.train wrote", "train again")
        state: dict[int, dict[str, Tensor]] = {}
        for name, x in found.items():
            number, key = name.split(".")
            state.setdefault(int(number), {})[key] = x
        return state

    def restore(self, saved: Checkpoint) -> None:
        """Go on from a checkpoint.

        Raises:
            InputError: If it is of other data, or of a run with other options.
        """
        saved.require(self.data)
        told, mine = saved.identity["config"], self.identity["config"]
        if told != mine:
            odd = ", ".join(f"--{k} {told.get(k)}" for k in mine if told.get(k) != mine[k])
            raise InputError(
                f"a checkpoint of {told.get('model')} trained with {odd}", "the options of the interrupted run", "repeat its command"
            )
        if saved.identity.get("start") != self.identity["start"]:
            raise InputError("a checkpoint of a run with another --start, or none", "that of the interrupted run", "repeat its command")
        fit(self.model, saved.weights("model"), self.config.model)
        average = {k: x.to(self.device) for k, x in saved.weights("average").items()}
        fit(self.model, average, self.config.model)  # checks the shapes
        self.average = average
        self.model.load_state_dict(saved.weights("model"))
        state = self._moments(saved)
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": state})
        self.done, self.history = saved.step, list(saved.history)
        self.total = saved.tensors["progress.total"].to(self.device)
        self.counted = int(saved.tensors["progress.counted"])


def _groups(model: nn.Module) -> list[dict]:
    """Weights that learn at the rate, and the queries and keys, which learn `QUICK` times as fast."""
    quick = {id(p) for m in model.modules() for name in getattr(m, "quick", ()) for p in getattr(m, name).parameters()}
    parts = [[p for p in model.parameters() if (id(p) in quick) == fast] for fast in (False, True)]
    return [{"params": part, "factor": factor} for part, factor in zip(parts, (1.0, QUICK), strict=True) if part]


def _posterior(data: ImageSet, noise: Schedule) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """The exact posterior mean of a batch, given its labels if there are any."""
    if isinstance(data.rule, Toy):
        return lambda x_t, t, label: data.rule.posterior_mean(x_t, *noise(t))
    return Ideal(data, noise).denoise


@contextmanager
def _tf32():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


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
        compiled: Whether to compile the network (worth it on a GPU).
        tensorboard: Whether to write a TensorBoard log too.
        stopped: Asked after every step.
        progress: Where to show steps and loss.

    Raises:
        InputError: If an option does not fit, or ``out`` holds something else.
        DivergedError: If the loss is no longer a number; the last good checkpoint stays.
    """
    trainer = Trainer(config, load(config.dataset) if data is None else data, device, compiled, start)
    _require_board(tensorboard)
    if progress and start is not None and not (resume and out is not None and (out / NAME).is_file()):
        of = len(trainer.model.state_dict())
        progress.console.print(
            f"{config.model} starts with {trainer.taken} of its {of} tensors, those of {_called(start)}", highlight=False
        )
    if out is not None:
        _prepare(trainer, out, resume)
    board = _board(out, tensorboard)
    task = progress.add_task(f"{config.model} seed {config.seed}", total=config.steps, completed=trainer.done) if progress else None
    started, before = time.perf_counter(), trainer.done
    while trainer.done < config.steps:
        trainer.step()
        if trainer.device.type == "cpu" or trainer.done % LOOK == 0 or trainer.done % config.every == 0:
            trainer.check()
        late = time.perf_counter() - started > 60 * minutes or stopped()
        if trainer.done % config.every == 0 or trainer.done == config.steps:
            samples = trainer.evaluate()
            _record(trainer, samples, out, board, progress, (time.perf_counter() - started) / (trainer.done - before))
        elif late and out is not None:
            trainer.check()
            trainer.checkpoint().save(out / NAME)
        if progress:
            progress.advance(task)
        if late:
            break
    if progress:
        progress.remove_task(task)
    return trainer


def _prepare(trainer: Trainer, out: Path, resume: bool) -> None:
    try:
        occupied = out.exists() and (not out.is_dir() or any(out.iterdir()))
        if occupied and not (out / NAME).is_file():
            raise InputError(f"output directory {out}, which holds other files", "a new or empty directory", "choose another --out")
        if occupied:
            saved = Checkpoint.load(out)
            if not resume:
                raise InputError(
                    f"output directory {out}, with a checkpoint at step {saved.step}", "--resume, or a new directory", "choose one of these"
                )
            with _named(out):
                trainer.restore(saved)
        out.mkdir(parents=True, exist_ok=True)
        if not occupied:
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


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = Parser(
        prog="python -m empirical.train",
        description="Train a network on the noisy images of a data set. Stopped, by hand or by --minutes, it keeps what it has; "
        "--resume goes on, to the same weights as if it had never stopped.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    d = Config(dataset="", model="")
    p.add_argument("--dataset", required=True, help=f"data: {', '.join(SOURCES)}; parameters after a colon, as in toy:layout=strip")
    p.add_argument("--model", required=True, help=f"network: {', '.join(NETWORKS)}")
    p.add_argument("--prediction", default=d.prediction, help=f"what it outputs: {', '.join(PREDICTIONS)}")
    p.add_argument(
        "--target", default=d.target, help=f"what it is trained towards: {', '.join(TARGETS)} (the mean of x_0 given x_t: less noise)"
    )
    p.add_argument("--padding", default=d.padding, help=f"padding of its convolutions: {', '.join(BORDERS)}")
    p.add_argument("--hidden", type=int, help="channels inside; the network's own if not given")
    p.add_argument("--embedding", type=int, help="numbers in a query or key, for networks with one attention layer")
    p.add_argument("--layers", type=int, help="3x3 convolutions of a resnet")
    p.add_argument("--attention", action="store_true", help="self-attention in a unet")
    p.add_argument("--conditional", action="store_true", help="tell the network the class of each image")
    p.add_argument("--schedule", default=d.schedule, help=f"noise schedule: {', '.join(SCHEDULES)}")
    p.add_argument("--steps", type=int, default=d.steps, help="training steps")
    p.add_argument("--minutes", type=float, default=math.inf, help="stop after so long, to be resumed")
    p.add_argument("--batch", type=int, default=d.batch, help="images in a step")
    p.add_argument("--rate", type=float, default=d.rate, help="learning rate")
    p.add_argument("--decay", default=d.decay, help=f"learning rate over the steps: {', '.join(DECAYS)} (constant, then linear to 0)")
    p.add_argument("--focus", type=float, default=d.focus, help="share of the times drawn from the middle, where context says most")
    p.add_argument("--average", type=float, default=d.average, help="decay of the averaged weights (EMA) in a step")
    p.add_argument("--clip", type=float, default=d.clip, help="largest norm of a gradient")
    p.add_argument("--precision", default=d.precision, help=f"arithmetic: {', '.join(PRECISIONS)} (the last two on CUDA only)")
    p.add_argument("--compile", action="store_true", dest="compiled", help="compile the network; pays on a GPU")
    p.add_argument("--every", type=int, default=d.every, help="steps between two evaluations and checkpoints")
    p.add_argument("--samples", type=int, default=d.samples, help="samples in an evaluation, where there is a rule to check")
    p.add_argument("--seed", type=int, default=d.seed, help="seed of weights, images, times and noise")
    p.add_argument("--start", type=Path, help="training directory of a network to begin with: its weights where name and shape agree")
    p.add_argument("--device", default="auto", help="auto, cpu or cuda")
    p.add_argument("--out", type=Path, help="output directory; runs/train/DATASET-MODEL-SEED if not given")
    p.add_argument("--resume", action="store_true", help="go on from the checkpoint in the output directory")
    p.add_argument("--tensorboard", action="store_true", help="write a TensorBoard log too")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 for diverged training, 2 for bad input, 130 when interrupted."""
    return guarded(
        lambda: _run(vars(parser().parse_args(argv))),
        "free space or choose another --out; --resume goes on",
        "the same command with --resume goes on from the last checkpoint",
    )


def _run(arguments: dict) -> int:
    extras = {name: arguments.pop(name) for name in ("minutes", "compiled", "resume", "tensorboard")}
    if not extras["minutes"] > 0:  # written so that NaN counts as too few
        raise InputError(f"--minutes {extras['minutes']:g}", "a positive number", "leave it out to train to the end")
    device, out, start = arguments.pop("device"), arguments.pop("out"), arguments.pop("start")
    console = Console(width=None if sys.stdout.isatty() else 120)
    columns = (TextColumn("{task.description:24}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    config = Config(**arguments)
    out = out or Path("runs/train") / f"{default_out(config.dataset).name}-{config.model}-{config.seed}"
    try:
        with stop_signal() as stopped, Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            begun = None if start is None else Checkpoint.load(start)
            trainer = train(config, out=out, start=begun, device=find_device(device), stopped=stopped, progress=progress, **extras)
    except DivergedError as error:
        print(f"error: training diverged at step {error}; lower --rate or --clip; {out} keeps the last good checkpoint", file=sys.stderr)
        return 1
    if trainer.done < config.steps:
        print(f"stopped at step {trainer.done} of {config.steps}, saved in {out}; {RESUME}", file=sys.stderr)
        return 130 if stopped() else 0
    console.print(f"written to {out}: {NAME}, log.jsonl, samples.png", highlight=False)
    return 0


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


if __name__ == "__main__":
    sys.exit(main())
