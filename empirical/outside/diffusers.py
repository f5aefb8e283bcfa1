"""``diffusers:DIR``: a network saved by the library ``diffusers``, with the levels of its scheduler.

Such a network knows a thousand levels, or as many as its scheduler says. On them its posterior mean is that of the library, whatever it
predicts. Between them it is asked for the fractional timestep (its embedding, sines and cosines of the timestep, is a function of real
numbers; the fastest turns by one radian a level), on noise whose angle is interpolated (`theory.discrete`); ``between=snap`` asks for
the nearest timestep instead, which is told wrongly by up to half a level. `between` measures by how much the two differ. Below the
first level no network was trained: there it is asked for timestep 0.

Sampling along equal steps of ``t`` is ``DDIMScheduler`` with ``timestep_spacing="trailing"``, ``set_alpha_to_one=True`` and
``clip_sample=False``, step by step; `times` gives the times of ``"leading"``. Three settings of it make other images, which no choice
of times imitates: ``clip_sample=True`` (the default) clips each guess of the clean image, ``set_alpha_to_one=False`` ends at the first
level instead of at the clean image, and ``"linspace"`` steps by ``T // steps`` levels between timesteps that are further apart, so that
each step ends at another level than the next begins at.
"""

from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from empirical.outside.denoiser import OutsideDenoiser
from empirical.outside.given import Given
from theory.discrete import DiscreteSchedule
from theory.errors import InputError, choices
from theory.results import read_json
from theory.types import Images

EXTRA = "pip install 'score-machines[diffusers]'"
NETWORKS = {"UNet2DModel": "num_class_embeds", "DiTTransformer2DModel": "num_embeds_ada_norm"}  # and where each says how many classes
OLD_NAMES = {"Transformer2DModel": "DiTTransformer2DModel"}  # what DiT was before 0.28
SCHEDULERS = (
    "DDPMScheduler",
    "DDIMScheduler",
    "DDIMInverseScheduler",
    "DDPMParallelScheduler",
    "DDIMParallelScheduler",
    "PNDMScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
    "DEISMultistepScheduler",
    "LMSDiscreteScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
)  # fmt: skip  (all of one forward process, x_i = sqrt(a_i) x_0 + sqrt(1 - a_i) epsilon)
PREDICTION_TYPES = {"epsilon": "epsilon", "v_prediction": "v", "sample": "sample"}
WEIGHTS = "diffusion_pytorch_model"
HALF = ("F16", "BF16", "F8_E4M3", "F8_E5M2")


def diffusers_folder(given: Given) -> OutsideDenoiser:
    """The network of a folder: that of a pipeline (``unet/`` or ``transformer/``, ``scheduler/``), or of one model with
    ``scheduler_config.json`` beside it or in ``scheduler/``.

    Options: ``label=`` (a class for all calls), ``between=`` (``interpolate`` or ``snap``, between levels), ``subfolder=`` (of the
    network, such as ``unet_ema``).

    Raises:
        InputError: If a file is missing, weights are pickled or of half precision, or the network, scheduler, prediction, size or channels
            are none that can be used.
    """
    given.only("label", "between", "subfolder")
    between = given.choice("between", ("interpolate", "snap"), "interpolate")
    library = _library(given)
    folder = _network_folder(given)
    name, config = _config(folder, given)
    classes = _classes(name, config)
    _require_fit(config, given)
    scheduler = _scheduler(folder, given, library)
    prediction = scheduler.config.get("prediction_type", "epsilon")
    if prediction not in PREDICTION_TYPES:
        raise InputError(f"{given.spec} with prediction_type {prediction!r}", choices(PREDICTION_TYPES), "correct scheduler_config.json")
    _require_safe(folder, name)
    network = _loaded(getattr(library, name), folder)
    channels = given.shape[0]
    learned = name == "UNet2DModel" and config.get("time_embedding_type") == "learned"  # a table: it knows nothing between levels

    def asked(x: Tensor, timestep: Tensor, label: Tensor | None) -> Tensor:
        out = network(x, timestep.long() if learned else timestep, class_labels=label, return_dict=False)[0]
        return out[:, :channels]  # the other half, where there is one, is a variance

    levels = DiscreteSchedule(scheduler.alphas_cumprod.double())
    denoiser = OutsideDenoiser(
        asked, levels, PREDICTION_TYPES[prediction], given.shape, name=given.spec, time="timestep",
        snap=between == "snap" or learned, classes=classes, label=given.number("label"), module=network,
    )  # fmt: skip
    return denoiser.to(given.device).probed()


def times(scheduler: Any, steps: int) -> Tensor:
    """The times, for a `theory.sampling.Sampler`, of the timesteps that a scheduler of diffusers visits in so many steps, and 0.

    Args:
        scheduler: Such as ``DDIMScheduler``; its timesteps are set.
        steps: Number of steps.
    """
    scheduler.set_timesteps(steps)
    visited = torch.as_tensor(scheduler.timesteps, dtype=torch.float64).cpu()
    return torch.cat([(visited + 1) / scheduler.config.num_train_timesteps, torch.zeros(1, dtype=torch.float64)])


def between(network: OutsideDenoiser, x_t: Images, t: float) -> float:
    """What is uncertain between two levels: how much the posterior mean differs, halfway, from that for the nearest timestep.

    Args:
        network: A network of discrete levels.
        x_t: Noisy images at time ``t``.
        t: A time; the middle of the levels around it is taken.

    Returns:
        The root mean square difference, as a share of the root mean square deviation of the mean images.
    """
    levels = network.schedule.levels
    middle = (min(max(round(t * levels), 1), levels - 1) + 0.5) / levels
    kept, found = network.snap, []
    try:
        for network.snap in (False, True):
            found.append(network.denoise(x_t, middle).double())
    finally:
        network.snap = kept
    return float((found[0] - found[1]).square().mean().sqrt() / found[0].std())


def _library(given: Given) -> ModuleType:
    try:
        import diffusers
    except ImportError as error:
        raise InputError(f"{given.spec} without the package diffusers", "the extra diffusers installed", EXTRA) from error
    return diffusers


def _network_folder(given: Given) -> Path:
    root = Path(given.path)
    if not root.is_dir():
        raise InputError(f"folder {root}", "an existing folder that save_pretrained wrote", "correct the path")
    names = [given.options["subfolder"]] if "subfolder" in given.options else ["unet", "transformer", "."]
    for name in names:
        if (root / name / "config.json").is_file():
            return root / name
    wanted = " or ".join(str(Path(name) / "config.json") for name in names)
    raise InputError(f"folder {root} without {wanted}", "the network as save_pretrained writes it", "name the folder it is in")


def _config(folder: Path, given: Given) -> tuple[str, dict]:
    config = read_json(folder / "config.json")
    name = OLD_NAMES.get(config.get("_class_name"), config.get("_class_name"))
    if name not in NETWORKS:
        raise InputError(f"{given.spec}, a {name}", choices(NETWORKS), "use a network of images; those of text or latents are not read")
    return name, config


def _classes(name: str, config: dict) -> int:
    """How many classes it knows; those of DiT have one more, for no class."""
    if name == "UNet2DModel" and config.get("class_embed_type") is None and config.get("num_class_embeds") is None:
        return 0
    count = config.get(NETWORKS[name]) or 0
    return count + 1 if name.startswith("DiT") and count else count


def _require_fit(config: dict, given: Given) -> None:
    """Refuse a network of another size or number of channels than the data."""
    channels, *size = given.shape
    mine = config.get("in_channels")
    if mine != channels or (config.get("out_channels") or channels) not in (channels, 2 * channels):
        given_, expected = f"{given.spec} of {mine} channels in and {config.get('out_channels')} out", f"{channels}, those of the data"
        raise InputError(given_, expected, "name its data, or, of a latent network, its latents as npz")
    told = config.get("sample_size")
    told = [told, told] if isinstance(told, int) else told
    if told is not None and list(told) != list(size):
        expected = f"{size[0]}x{size[1]}, the size of the data"
        raise InputError(f"{given.spec} for images of {told[0]}x{told[1]} pixels", expected, f"resize the data, as with size={told[0]}")


def _scheduler(folder: Path, given: Given, library: ModuleType) -> Any:
    """The scheduler, for its levels and its prediction type alone."""
    root = Path(given.path)
    places = [at / "scheduler_config.json" for at in (root / "scheduler", root, folder, folder / "scheduler", folder.parent / "scheduler")]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise InputError(
            f"{given.spec} without scheduler_config.json",
            "the levels it was trained on, in the folder or in scheduler/",
            "write it, as in DDPMScheduler(...).save_pretrained(DIR)",
        )
    config = read_json(file)
    name = config.get("_class_name")
    if name not in SCHEDULERS or not hasattr(library, name):
        raise InputError(
            f"{file} of a {name}", f"one of levels with betas: {', '.join(SCHEDULERS[:6])}, ...", "use the scheduler of training"
        )
    try:
        scheduler = getattr(library, name).from_config({k: v for k, v in config.items() if not k.startswith("_")})
    except Exception as error:  # whatever the library raises on what it does not know
        told = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise InputError(f"{file} ({told})", "betas that diffusers knows, such as 'linear'", "correct it") from error
    return scheduler


def _require_safe(folder: Path, name: str) -> None:
    """Refuse folders without safetensors, or with weights of half precision."""
    files = sorted(folder.glob(f"{WEIGHTS}*.safetensors"))
    if not files:
        pickled = sorted(folder.glob(f"{WEIGHTS}*.bin"))
        given = f"{pickled[0]}, pickled weights" if pickled else f"folder {folder} without weights"
        load = f"from diffusers import {name} as M; M.from_pretrained('{folder}', use_safetensors=False).save_pretrained('{folder}')"
        line = f'python -c "{load}"'
        raise InputError(given, f"{WEIGHTS}.safetensors", f"convert them: {line}" if pickled else "save it again with save_pretrained")
    for file in files:
        try:
            with safe_open(file, "pt") as opened:
                kinds = {opened.get_slice(key).get_dtype() for key in opened.keys()}  # noqa: SIM118  (not a dict)
        except (OSError, SafetensorError) as error:
            raise InputError(f"{file} ({error})", "a whole safetensors file", "save or download it again") from error
        half = sorted(kinds & set(HALF))
        if half:
            load = f"from diffusers import {name} as M; M.from_pretrained('{folder}').float().save_pretrained('{folder}')"
            line = f'python -c "{load}"'
            raise InputError(f"{file} of half precision ({', '.join(half)})", "weights in float32", f"widen them: {line}")


def _loaded(kind: Any, folder: Path) -> Any:
    """The network with exactly the weights of the folder."""
    try:
        network, told = kind.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False, output_loading_info=True
        )
    except Exception as error:  # whatever the library raises
        what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(f"folder {folder} ({what})", "a network that diffusers loads", "save it again with save_pretrained") from error
    odd = [*told["missing_keys"], *told["unexpected_keys"], *(str(key) for key in told.get("mismatched_keys", []))]
    if odd:
        raise InputError(f"{folder}: weights {', '.join(odd[:3])} missing or left over", "those of config.json", "use one version for both")
    return network
