r"""A solved attention score as a denoiser over all times, saved and loaded.

The functions of a solution are functions of what a patch tells (`theory.stationarity.basis`), which is defined at every
time, and their numbers are piecewise linear in ``log(sigma_t / alpha_t)`` between the solved levels
(`theory.stationarity.curve`). Below the lowest level that level's are used. Above the highest, what a solution differs from
ELS by fades with ``alpha_t / sigma_t``: noise leaves nothing to tell, and an error in a predicted noise would be divided by
``alpha_t``.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from theory.data.imageset import ImageSet
from theory.denoiser import Denoiser, Posterior, require_noise
from theory.errors import InputError
from theory.noise import Schedule, schedule
from theory.patches import Size
from theory.predictions import PREDICTIONS, units
from theory.results import versions, write_json, write_tensors
from theory.stationarity.basis import LocalBasis
from theory.stationarity.curve import Curve
from theory.stationarity.equations import Head, forward
from theory.stationarity.families import Family, family
from theory.stationarity.learned import Draws, Model, Net, Point
from theory.stationarity.options import Options
from theory.stationarity.sites import all_sites
from theory.types import BatchLabels, Float, Images, Times

FORMAT = "theory.stationarity/4"
MEMORY = 2**29  # bytes
NAMES = (*Net._fields, "coefficients")  # tensors of a level


class Split(NamedTuple):
    """A posterior mean taken apart.

    Attributes:
        local: What the pixel's own patch contributes, with shape ``(B, C, H, W)``.
        context: What attention adds; ``local + context`` is the posterior mean.
        attention: ``alpha_xy`` with shape ``(B, H * W, H * W)``, pixels row by row.
    """

    local: Images
    context: Images
    attention: Float[Tensor, "B P P"]


@dataclass(frozen=True)
class Setting:
    """What was solved: everything but the coefficients."""

    family: str
    times: list[float]
    patch_size: Size
    border: str
    schedule: str
    options: Options

    @property
    def head(self) -> Head:
        return Head(self.options.strength, self.options.beta, family(self.family).hard)


class SolvedScore(Denoiser):
    """The best score of a CNN with an attention head on top, solved numerically (arXiv 2506.17324).

    Args:
        data: The training set it was solved for.
        setting: What was solved.
        points: The solution at each level.
        certificates: The certificate of each level, as JSON values.
        clusters: Clusters of the basis it was solved in (`LocalBasis.clusters`); made anew if None.
        descent: How the solution was found, as JSON values: at each level images and losses on the way (``history``), fresh ``images``,
            ``steps``, ``solve_seconds``, and at each level what the printed equation misses (``printed``).
        noise: The noise schedule, where it is not the one of that name with its default parameters.
        memory: Working memory in bytes.
    """

    def __init__(
        self,
        data: ImageSet,
        setting: Setting,
        points: list[Point],
        certificates: list[dict],
        clusters: list[Tensor] | None = None,
        descent: dict | None = None,
        noise: Schedule | None = None,
        memory: int = MEMORY,
    ) -> None:
        self.data, self.setting, self.points, self.certificates, self.descent = data, setting, points, certificates, descent or {}
        self.schedule = noise or schedule(setting.schedule)
        self.family: Family = family(setting.family)
        self.memory = memory
        options = setting.options
        self.basis = LocalBasis(data, setting.patch_size, setting.border, options.prediction, options.seed, memory, clusters)
        self._model = Model(self.family, setting.head, self.basis.classes, data.images.shape[1], options.embedding)
        alpha, sigma = self.schedule(torch.tensor(setting.times, dtype=torch.float64))
        self._curve = Curve(self._model, points, (sigma / alpha).log(), units(options.prediction, alpha, sigma))

    @property
    def certified(self) -> bool:
        """Whether the certificate holds at every level."""
        return not any(c["failures"] for c in self.certificates)

    @property
    def converged(self) -> bool:
        """Whether an independent solve agrees at every level, and nobody is known to lie below (`theory.stationarity.certificate`)."""
        return all(c["converged"] for c in self.certificates)

    def points_at(self, times: Sequence[float]) -> list[Point]:
        """The functions at any times, in float64 on the CPU."""
        alpha, sigma = self.schedule(torch.tensor(times, dtype=torch.float64))
        like = torch.zeros(1, dtype=torch.float64)
        net, coefficients = self._curve.at((sigma / alpha).log(), units(self.setting.options.prediction, alpha, sigma), like)
        return [Point(Net(*(x[i] for x in net)), coefficients[i]) for i in range(len(times))]

    def __call__(self, x_t: Images, t: Times, label: BatchLabels | None = None) -> Posterior:
        """The posterior mean under the family's constraint.

        Args:
            x_t: Noisy images with shape ``(B, C, H, W)``, float32 or float64.
            t: Time in (0, 1], with shape ``()`` or ``(B,)``.
            label: Must be None: solutions are of the whole training set.

        Raises:
            InputError: If shapes, times or a label do not fit, or ``sigma_t`` is 0.
        """
        if label is not None:
            raise InputError(f"label {label}", "no label: a solution is of one training set", "solve for data.select(label)")
        split = self._split(x_t, t, attention=False)
        return Posterior(split.local + split.context)

    def split(self, x_t: Images, t: Times) -> Split:
        """The posterior mean as local part and context, and the attention between pixels."""
        return self._split(x_t, t, attention=True)

    def _split(self, x_t: Images, t: Times, attention: bool) -> Split:
        self._check(x_t)
        alpha, sigma = self.schedule(torch.as_tensor(t, dtype=torch.float64, device=x_t.device))
        require_noise(sigma)
        if alpha.ndim > 1 or (alpha.ndim == 1 and alpha.shape != (len(x_t),)):
            raise InputError(
                f"time t of shape {tuple(alpha.shape)} for {len(x_t)} images", f"shape () or ({len(x_t)},)", "pass one for all or one each"
            )
        alpha, sigma = (c.expand(len(x_t)) for c in (alpha, sigma))
        pixels = x_t.shape[2] * x_t.shape[3]
        batch = max(1, int(self.memory / 8 / 8 / pixels**2))
        parts = [self._part(*piece, attention) for piece in zip(x_t.split(batch), alpha.split(batch), sigma.split(batch), strict=True)]
        return Split(*(torch.cat(field) if field[0] is not None else None for field in zip(*parts, strict=True)))

    def _part(self, x_t: Images, alpha: Tensor, sigma: Tensor, attention: bool) -> tuple:
        u, els, mean = self.basis(x_t, alpha, sigma)
        h, out, between = torch.empty_like(els), torch.empty_like(els), els.new_empty(*els.shape[:2], els.shape[1])
        levels, group = torch.unique(torch.stack([alpha, sigma]), dim=1, return_inverse=True)
        for number, (a, s) in enumerate(levels.T):  # images at one level share their functions
            rows = (group == number).nonzero()[:, 0]
            roles = self._model.roles(self._point(a, s, u), Draws(u, els, els).part(rows))
            output = forward(roles, self.setting.head)
            h[rows], out[rows], between[rows] = roles.h, output.out, output.alpha
        slope = self._slope(alpha, sigma).reshape(-1, 1, 1)
        local, context = mean + slope * (h - els).double(), slope * (out - h).double()
        back = self.basis.order.argsort().to(x_t.device)
        attended = between[:, back][:, :, back].to(x_t) if attention else None
        return self.basis.image(local).to(x_t), self.basis.image(context).to(x_t), attended

    def _point(self, alpha: Tensor, sigma: Tensor, like: Tensor) -> Point:
        """The functions at a noise level."""
        unit = units(self.setting.options.prediction, alpha, sigma)
        net, coefficients = self._curve.at((sigma / alpha).log()[None], unit[None], like)
        return Point(Net(*(x[0] for x in net)), coefficients[0])

    def _slope(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Derivative of the posterior mean by the output; above the highest level it fades."""
        ratio = sigma / alpha
        reach = ratio.clamp(max=float(self._curve.knots[-1].exp()))
        return reach * PREDICTIONS[self.setting.options.prediction].slope(alpha, sigma)

    def _check(self, x_t: Tensor) -> None:
        expected = tuple(self.data.images.shape[1:])
        if not isinstance(x_t, Tensor):
            raise InputError(f"x_t of type {type(x_t).__name__}", "a torch tensor", "convert it")
        if x_t.ndim != 4 or tuple(x_t.shape[1:]) != expected:
            raise InputError(
                f"x_t of shape {tuple(x_t.shape)}", f"(B, {', '.join(map(str, expected))})", "use images like the training set's"
            )
        if x_t.dtype not in (torch.float32, torch.float64):
            raise InputError(f"x_t of dtype {x_t.dtype}", "float32 or float64", "convert it")

    def save(self, path: str | Path) -> None:
        """Write ``path.safetensors`` and then ``path.json``, each atomically."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {f"{i}.{name}": x for i, point in enumerate(self.points) for name, x in point.tensors().items()}
        tensors |= {f"clusters.{i}": x for i, x in enumerate(self.basis.clusters)}
        write_tensors(path.with_name(path.name + ".safetensors"), tensors)
        content = {
            "format": FORMAT,
            "setting": asdict(self.setting),
            "data": {"name": self.data.name, "fingerprint": self.data.fingerprint},
            "versions": versions(),
            "certificates": self.certificates,
            "descent": self.descent,
        }
        write_json(path.with_name(path.name + ".json"), content)

    @classmethod
    def load(cls, path: str | Path, data: ImageSet, noise: Schedule | None = None, memory: int = MEMORY) -> "SolvedScore":
        """Read what `save` wrote.

        Args:
            path: Its path, without an extension.
            data: The training set it was solved for.
            noise, memory: As for the class.

        Raises:
            InputError: If a file is missing or damaged, or belongs to other data.
        """
        path = Path(path)
        try:
            content = json.loads(path.with_name(path.name + ".json").read_text())
            if content["format"] != FORMAT:
                raise KeyError("format")
            tensors = load_file(path.with_name(path.name + ".safetensors"))
            fields, told, certificates, descent = (content[key] for key in ("setting", "data", "certificates", "descent"))
            setting = Setting(**{**fields, "patch_size": tuple(fields["patch_size"]), "options": Options(**fields["options"])})
            clusters = [tensors[f"clusters.{i}"] for i in range(sum(name.startswith("clusters.") for name in tensors))]
            if not len(certificates) == len(setting.times) == (len(tensors) - len(clusters)) / len(NAMES):
                raise ValueError("levels")
            points = [Point.of({name: tensors[f"{i}.{name}"] for name in NAMES}) for i in range(len(setting.times))]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            raise InputError(
                f"solution {path} ({type(error).__name__})", "the files a solver saved, whole", "solve again, or correct the path"
            ) from error
        if told["fingerprint"] != data.fingerprint:
            raise InputError(
                f"solution {path} of {told['name']}, and data {data.name} with another fingerprint",
                "the training set it was solved for",
                "load that data set",
            )
        classes = len(all_sites(*data.images.shape[-2:], setting.patch_size, setting.border))
        if len(clusters) != classes:
            raise InputError(f"solution {path} with clusters of {len(clusters)} classes", f"those of {classes}, whole", "solve again")
        return cls(data, setting, points, certificates, clusters, descent, noise, memory)
