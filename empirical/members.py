"""Who belongs to the family of a solved score, and may refute it.

A solution stands for the lowest loss of its family: networks of one receptive field, border and prediction, with one head. Only
another member that lies below shows that it is not the lowest. Members are

- solved scores of the same family, or of one it contains (`theory.stationarity.families`);
- trained networks with the head of such a family;
- where the family contains ELS (`theory.stationarity.certificate.contains_els`), the machine ``equivariant_local`` and networks
  without attention.

Strength and inverse temperature count as far as the family can't take them up: a strength by the size of values that are free, a
temperature by that of queries that are no colours. Whoever sees more, or is of a larger family, is no member, however low.
"""

from typing import NamedTuple

from empirical.denoiser import NetworkDenoiser
from empirical.networks.cnn import HEADS, AttentionCNN
from empirical.networks.resnet import ResNet
from theory.denoiser import Denoiser
from theory.machines import AnalyticDenoiser, EquivariantLocal
from theory.patches import Size
from theory.stationarity import SolvedScore
from theory.stationarity.certificate import contains_els
from theory.stationarity.learned import Model

ELS = "els"  # as families name the network without attention
FAMILY = {"cnn": ELS, "patch": ELS, "literal": "literal", "identity": "identity", "top1": "top1_identity", "attention": "full"}


class Standing(NamedTuple):
    """What somebody is to a solution.

    Attributes:
        outside: Why it is not of the family; empty for a member.
        independent: Whether it is another solve of the same family, from another seed or with another number of features.
        note: What else to know of a member; empty if nothing.
    """

    outside: str = ""
    independent: bool = False
    note: str = ""


class Kind(NamedTuple):
    """What somebody is, as far as families tell. None where there is no such thing.

    Attributes:
        family: A key of ``FAMILIES``, or `ELS`.
        patch_size, border, prediction: What a pixel sees, and what is predicted.
        strength, beta, embedding: Of the attention.
    """

    family: str
    patch_size: Size
    border: str
    prediction: str | None = None
    strength: float | None = None
    beta: float | None = None
    embedding: int | None = None


def standing(solution: SolvedScore, other: Denoiser) -> Standing:
    """What another denoiser is to a solution.

    Args:
        solution: A solved score.
        other: A solved score, trained network or machine of the same data and noise schedule.
    """
    mine, theirs = kind(solution), kind(other)
    if isinstance(theirs, str):
        return Standing(theirs)
    outside = _family(solution, theirs) or _seen(mine, theirs) or _head(solution, theirs)
    if outside:
        return Standing(outside)
    independent = isinstance(other, SolvedScore) and theirs.family == mine.family and _start(other) != _start(solution)
    wider = theirs.embedding is not None and theirs.embedding > mine.embedding
    return Standing("", independent, f"{theirs.embedding} numbers in a query or key, the solution has {mine.embedding}" if wider else "")


def kind(denoiser: Denoiser) -> Kind | str:
    """What a denoiser is; of those that are of no family, why."""
    if isinstance(denoiser, SolvedScore):
        s, o = denoiser.setting, denoiser.setting.options
        colours = denoiser.family.ties.q in (denoiser.family.ties.h, denoiser.family.ties.v)
        return Kind(s.family, s.patch_size, s.border, o.prediction, o.strength, o.beta, None if colours else o.embedding)
    if isinstance(denoiser, NetworkDenoiser):
        return _network(denoiser)
    if isinstance(denoiser, EquivariantLocal):
        sizes = set(denoiser.patch_sizes.sizes)
        if denoiser.patches != "all" or len(sizes) > 1:
            return "several patch sizes" if len(sizes) > 1 else "patches of the interior alone"
        return Kind(ELS, sizes.pop(), denoiser.border)
    return f"machine {denoiser.name}" if isinstance(denoiser, AnalyticDenoiser) else f"a {type(denoiser).__name__}"


def _network(denoiser: NetworkDenoiser) -> Kind | str:
    module = denoiser.module
    if isinstance(module, ResNet):
        return Kind(ELS, (module.receptive_field,) * 2, module.padding, denoiser.prediction)
    if not isinstance(module, AttentionCNN):
        return f"network {type(module).__name__}"
    name = next(n for n, head in HEADS.items() if type(module.head) is head)  # a head may be a subclass of another
    kind = Kind(FAMILY[name], (module.trunk.receptive_field,) * 2, module.padding, denoiser.prediction)
    if kind.family == ELS:
        return kind
    embedding = {"literal": None, "attention": "query"}.get(name, "embed")
    return kind._replace(strength=1.0, beta=1.0, embedding=len(getattr(module.head, embedding).weight) if embedding else None)


def _family(solution: SolvedScore, theirs: Kind) -> str:
    """Why a family is not this one, nor contained in it."""
    mine = solution.family
    if theirs.family == mine.name or (theirs.family != ELS and theirs.family in mine.contains):
        return ""
    options = solution.setting.options
    model = Model(mine, solution.setting.head, solution.basis.classes, solution.data.images.shape[1], options.embedding)
    if theirs.family == ELS and contains_els(model):
        return ""
    return f"family {theirs.family}, which {mine.name} does not contain"


def _seen(mine: Kind, theirs: Kind) -> str:
    """Why what is seen or predicted differs."""
    if theirs.patch_size != mine.patch_size:
        return "{}x{} pixels seen, the solution sees {}x{}".format(*theirs.patch_size, *mine.patch_size)
    if theirs.border != mine.border:
        return f"border {theirs.border}, the solution has {mine.border}"
    if theirs.prediction not in (None, mine.prediction):
        return f"prediction {theirs.prediction}, the solution has {mine.prediction}"
    return ""


def _head(solution: SolvedScore, theirs: Kind) -> str:
    """Why the attention is another, beyond what free values or queries take up."""
    family, options = solution.family, solution.setting.options
    if theirs.strength is None:
        return ""
    if theirs.strength != options.strength and not (family.free and options.strength):
        return f"strength {theirs.strength:g}, the solution has {options.strength:g}"
    colours = family.ties.q in (family.ties.h, family.ties.v)
    if theirs.beta != options.beta and colours and not family.hard:
        return f"beta {theirs.beta:g}, the solution has {options.beta:g}"
    return ""


def _start(solution: SolvedScore) -> tuple[int, int]:
    """What tells two solves of one family apart."""
    return solution.setting.options.seed, solution.setting.options.features
