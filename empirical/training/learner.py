r"""One update of the weights, all of it on the device.

The gradient ``g`` of the loss is cut to the norm ``clip``; SOAP (`theory.soap`) moves the weights ``w`` at the rate of the
step, or Adam (arXiv 1412.6980), queries and keys `QUICK` times as fast; and the averaged weights follow,

.. math:: g \leftarrow g \min(1, \mathrm{clip} / \|g\|), \qquad
          \bar w \leftarrow \bar w + (1 - k) (w - \bar w), \quad k = \min\big(\mathrm{average}, \tfrac{1 + n}{10 + n}\big),

after ``n`` steps: young averages forget the start sooner. Rates and ``k`` are tensors on the device, so that a captured
graph reads those of its step; nothing is read back.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from empirical.checkpoint import Checkpoint
from empirical.networks.blocks import Network
from empirical.precision import arithmetic
from empirical.training.batches import Batch
from empirical.training.config import Config
from theory.errors import InputError
from theory.soap import Soap

RISE = 500  # steps in which the learning rate rises
QUICK = 5.0  # learning rate of queries and keys relative to the rest, under Adam
TAIL = 0.25  # share of the steps in which the rate falls to 0 under "tail"
BETAS = (0.9, 0.99)  # of Adam


class Learner:
    """Weights, their moments and their average, and how a batch changes them.

    Args:
        model: The network, where it is to be trained.
        config: What to train.
        device: Where that is.
        compiled: Whether to compile the network.

    Attributes:
        average: Averaged weights by name.
        total: Sum of the losses per image, a float64 tensor; whoever reads it sets it back to 0.
    """

    def __init__(self, model: Network, config: Config, device: torch.device, compiled: bool = False) -> None:
        self.model, self.config, self.device = model, config, device
        self.forward = torch.compile(model) if compiled else model
        self.parameters = list(model.parameters())
        self.weights = {name: x.detach() for name, x in model.state_dict().items()}
        self.average = {name: x.clone() for name, x in self.weights.items()}
        self.optimiser = OPTIMISERS[config.optimiser](model, device)
        self.fresh = torch.ones((), device=device)  # 1 - k
        self.total = torch.zeros((), dtype=torch.float64, device=device)

    def prepare(self, step: int) -> None:
        """Set the rates of a step, counted from 0."""
        rate = _rate(self.config, step)
        for group in self.optimiser.param_groups:
            group["lr"].fill_(rate * group["factor"])
        if isinstance(self.optimiser, Soap):
            self.optimiser.prepare(step)
        self.fresh.fill_(1 - min(self.config.average, (2 + step) / (11 + step)))

    def __call__(self, batch: Batch) -> None:
        """Learn from a batch, at the rates set before."""
        self.model.train()
        self.optimiser.zero_grad(set_to_none=True)
        with arithmetic(self.config.precision):
            loss = self._loss(batch)
            loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
        self.optimiser.step()
        self._average()
        self.total.add_(loss.detach() * batch.x_t[0].numel())

    def _loss(self, batch: Batch) -> Tensor:
        target = self.model.target(batch.goal)
        half = torch.autocast(self.device.type, torch.bfloat16, self.config.precision == "bf16", cache_enabled=False)
        with half:  # without a cache: a cast kept from one step would be stale in the next
            out = self.forward(batch.x_t, batch.times, batch.label).float()
        if batch.weight is None:
            return mse_loss(out, target)
        return (batch.weight * (out - target).square()).mean()

    @torch.no_grad()
    def _average(self) -> None:
        old = list(self.average.values())
        change = torch._foreach_sub(list(self.weights.values()), old)
        torch._foreach_mul_(change, self.fresh)  # _foreach_lerp_ would read its weight back
        torch._foreach_add_(old, change)

    def state(self) -> dict[str, Tensor]:
        """All that a batch changes, by name, as it stands in a checkpoint: the tensors themselves."""
        tensors = {f"model.{k}": x for k, x in self.weights.items()} | {f"average.{k}": x for k, x in self.average.items()}
        for number, parameter in enumerate(self._ordered()):
            tensors |= {f"optimiser.{number}.{k}": x for k, x in self.optimiser.state.get(parameter, {}).items()}
        return tensors | {"progress.total": self.total}

    @torch.no_grad()
    def restore(self, saved: Checkpoint) -> None:
        """Take over the state in a checkpoint of the same network.

        Raises:
            InputError: If it holds a part of the optimiser's state, or none after the first step.
        """
        moments = self._moments(saved)
        for prefix, mine in (("model", self.weights), ("average", self.average)):
            for name, x in saved.weights(prefix).items():
                mine[name].copy_(x)
        self.optimiser.state.clear()  # before the first step there is none
        for parameter, state in zip(self._ordered(), moments, strict=False):
            self.optimiser.state[parameter] = {key: x.to(self.device, copy=True) for key, x in state.items()}
        self.total.copy_(saved.tensors["progress.total"])

    def _ordered(self) -> list[nn.Parameter]:
        return [p for group in self.optimiser.param_groups for p in group["params"]]

    def _moments(self, saved: Checkpoint) -> list[dict[str, Tensor]]:
        """The optimiser's state for each weight: of all of them, or of none before the first step."""
        found = saved.weights("optimiser")
        shapes = self.optimiser.shapes if isinstance(self.optimiser, Soap) else _moments_of_adam
        kinds = [shapes(p) for p in self._ordered()] if saved.step or found else []
        expected = {f"{i}.{key}": shape for i, kind in enumerate(kinds) for key, shape in kind.items()}
        if {name: tuple(x.shape) for name, x in found.items()} != expected:
            raise InputError("a checkpoint without the whole state of its optimiser", "one that empirical.train wrote", "train again")
        return [{key: found[f"{i}.{key}"] for key in kind} for i, kind in enumerate(kinds)]


def _adam(model: nn.Module, device: torch.device) -> torch.optim.Adam:
    groups = [{**group, "lr": torch.zeros((), device=device)} for group in _groups(model)]
    fused = {"fused": True, "capturable": device.type == "cuda"}  # one pass over all weights on the CPU, one kernel on CUDA
    return torch.optim.Adam(groups, betas=BETAS, **fused)


def _moments_of_adam(parameter: Tensor) -> dict[str, tuple[int, ...]]:
    return {"exp_avg": tuple(parameter.shape), "exp_avg_sq": tuple(parameter.shape), "step": ()}


def _soap(model: nn.Module, device: torch.device) -> Soap:
    return Soap([{"params": list(model.parameters()), "factor": 1.0, "lr": torch.zeros((), device=device)}])


OPTIMISERS = {"soap": _soap, "adam": _adam}


def _groups(model: nn.Module) -> list[dict]:
    """Weights that learn at the rate, and the queries and keys, which learn `QUICK` times as fast."""
    quick = {id(p) for m in model.modules() for name in getattr(m, "quick", ()) for p in getattr(m, name).parameters()}
    parts = [[p for p in model.parameters() if (id(p) in quick) == fast] for fast in (False, True)]
    return [{"params": part, "factor": factor} for part, factor in zip(parts, (1.0, QUICK), strict=True) if part]


def _rate(config: Config, step: int) -> float:
    """The learning rate of a step, counted from 0: rising at first, then by ``decay``."""
    factor = min(1.0, (step + 1) / RISE)
    if config.decay == "cosine":
        factor *= 0.5 * (1 + math.cos(math.pi * step / config.steps))
    elif config.decay == "tail":
        factor *= min(1.0, (config.steps - step) / (TAIL * config.steps))
    return config.rate * factor
