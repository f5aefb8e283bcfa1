"""The state of a training run, one step of it, and what it is judged by.

Everything random in a step comes from the seed and the number of the step, so that a run that was stopped and resumed ends
with the same bytes as one that was not. On CUDA the step is one captured graph (`empirical.training.graph`), with the same draws
and the same arithmetic as without.
"""

from collections.abc import Callable
from dataclasses import asdict

import torch
from torch import Tensor

from empirical.checkpoint import Checkpoint, fit, share
from empirical.denoiser import NetworkDenoiser
from empirical.networks import build
from empirical.networks.blocks import Network
from empirical.training.batches import Batches
from empirical.training.config import Config, given
from empirical.training.graph import capture, default_generator
from empirical.training.learner import Learner
from theory.data import ImageSet
from theory.errors import InputError
from theory.metrics import Proportion
from theory.noise import schedule
from theory.results import versions
from theory.sampling import DDIM, initial_noise
from theory.types import Images

SHOWN = 64  # samples in the picture


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
        graph: Whether steps on CUDA are captured as a graph; nothing is captured elsewhere.
    """

    def __init__(
        self,
        config: Config,
        data: ImageSet,
        device: str | torch.device = "cpu",
        compiled: bool = False,
        start: Checkpoint | None = None,
        graph: bool = True,
    ) -> None:
        self.config, self.data, self.device, self.schedule = config, data, torch.device(device), schedule(config.schedule)
        if config.precision != "float32" and self.device.type != "cuda":
            raise InputError(f"--precision {config.precision} on {self.device.type}", "float32 without CUDA", "leave it out")
        self.identity = {
            "config": asdict(config),
            "network": config.network(data),
            "data": {"name": data.name, "fingerprint": data.fingerprint, "shape": list(data.images.shape[1:])},
            "start": None if start is None else start.origin(),
        }
        self.model, self.taken = _network(self.identity["network"], config.seed, data, start)
        self.model.to(self.device)
        self.learner = Learner(self.model, config, self.device, compiled)
        self.batches = Batches(config, data, self.schedule, self.device)
        self.generator = default_generator(self.device)
        self.graph = graph and self.device.type == "cuda"
        self.done, self.history, self.counted = 0, [], 0
        self._work: Callable[[], None] | None = None

    @property
    def average(self) -> dict[str, Tensor]:
        """Averaged weights by name."""
        return self.learner.average

    @property
    def posterior(self) -> Callable[[Tensor, Tensor, Tensor | None], Tensor] | None:
        """``(x_t, t, label)`` to the exact posterior mean, where that is the target."""
        return self.batches.posterior

    def step(self) -> None:
        """One step; nothing in it depends on what ran before but weights and their moments, and nothing waits for the device."""
        work = self._work = self._work or self._ready()
        self.generator.manual_seed(self.config.seed * 2**32 + self.done)
        self.learner.prepare(self.done)
        self.batches.prepare(self.done)
        work()
        self.done += 1
        self.counted += 1

    def _ready(self) -> Callable[[], None]:
        """What a step does on the device: as it is, captured whole, or captured after the batch where that can't be."""
        if not self.graph:
            return lambda: self.learner(self.batches())
        if self.batches.capturable:
            return capture(lambda: self.learner(self.batches()), self.learner.state, self.device)
        kept = self.batches()
        learn = capture(lambda: self.learner(kept), self.learner.state, self.device)

        def work() -> None:
            for old, new in zip(kept, self.batches(), strict=True):
                if old is not None:
                    old.copy_(new)
            learn()

        return work

    def check(self) -> None:
        """Raise `DivergedError` if the loss is no longer a number. Waits for the device."""
        if not torch.isfinite(self.learner.total):
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
        labels = self.batches.labels
        label = None if labels is None else labels.unique()[torch.arange(count, device=self.device) % len(labels.unique())]
        return DDIM(self.denoiser(), 20)(noise, label).images.cpu()

    def evaluate(self) -> Tensor:
        """Record the mean loss since the last record and what samples obey; returns the samples."""
        samples = self.drawn()
        record = {"step": self.done, "loss": float(self.learner.total) / self.counted}
        if self.data.rule:
            share = Proportion.of(self.data.rule.consistent(samples))
            record |= {"consistency": share.value, "consistency_low": share.low, "consistency_high": share.high}
        self.history.append(record)
        self.learner.total.zero_()
        self.counted = 0
        return samples

    def checkpoint(self) -> Checkpoint:
        """Everything needed to go on, and to use the network."""
        tensors = self.learner.state() | {"progress.counted": torch.tensor(self.counted)}
        return Checkpoint(self.identity, self.done, list(self.history), versions(), tensors)

    def restore(self, saved: Checkpoint) -> None:
        """Go on from a checkpoint.

        Raises:
            InputError: If it is of other data, or of a run with other options.
        """
        saved.require(self.data)
        told, mine = given(saved.identity["config"]), given(self.identity["config"])
        if told != mine:
            odd = ", ".join(f"--{k} {told.get(k)}" for k in self.identity["config"] if told.get(k) != mine.get(k))
            raise InputError(
                f"a checkpoint of {told.get('model')} trained with {odd}", "the options of the interrupted run", "repeat its command"
            )
        if saved.identity.get("start") != self.identity["start"]:
            raise InputError("a checkpoint of a run with another --start, or none", "that of the interrupted run", "repeat its command")
        for prefix in ("average", "model"):  # checks names and shapes; the weights stay those of the second
            fit(self.model, saved.weights(prefix), self.config.model)
        self.learner.restore(saved)
        self.done, self.history = saved.step, list(saved.history)
        self.counted = int(saved.tensors["progress.counted"])
        self._work = None  # a graph holds the moments it was captured with


def _network(told: dict, seed: int, data: ImageSet, start: Checkpoint | None) -> tuple[Network, int]:
    """The network as it begins, and how many of its tensors come from the checkpoint it starts with."""
    model = build(told["name"], data.images.shape[1], seed=seed, **told["options"])
    if start is None:
        return model, 0
    start.require(data)
    return model, share(model, start)
