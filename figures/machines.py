"""What the constrained optima make of the same noise, and the patch mosaics of black and white."""

import sys

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch.nn.functional import avg_pool2d, pad

from figures.command import Effort, main
from figures.numbers import Numbers
from figures.results import Results
from figures.style import COLOUR, PAGE, picture, row_title
from figures.style import TITLE as MODEL
from theory.data import ImageSet, load
from theory.machines import Equivariant, EquivariantLocal, Ideal, Local
from theory.metrics import memorisation
from theory.provenance import provenance
from theory.sampling import DDIM, initial_noise

TITLE = "Four machines, one noise"
SHOWN = (1.0, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.0)  # times of the columns
SIDE = 20  # of the black and white pictures
STEPS = 50


def compute(results: Results, effort: Effort) -> Numbers:
    """Reverse flows of IS, ES, LS and ELS on digits, and ELS on an all-black and an all-white image."""
    digits = load("digits")
    few = ImageSet(digits.images[: effort(400, 1797)], digits.name)
    # The patch shrinks as the noise falls, as it does in trained networks.
    machines = {
        "ideal": Ideal(few),
        "equivariant": Equivariant(few),
        "ls": Local(few, patch_size=[3, 3, 5, 7], border="zeros"),
        "els": EquivariantLocal(few, patch_size=[3, 3, 5, 7], border="zeros"),
    }
    noise = initial_noise(machines["ideal"].schedule, (1, 1, 8, 8), 3, device=effort.device)
    arrays, nearest = {}, {}
    for name, machine in machines.items():
        run = DDIM(machine, STEPS)(noise, trajectory=True)
        sample = run.images.cpu()
        index = [int((run.times - t).abs().argmin()) for t in SHOWN]
        arrays[name] = run.trajectory[index, 0]
        source = few.images[memorisation(sample, few).nearest[:1]]
        if name == "equivariant":
            found = provenance(machine, run.images, float(run.times[-2]))
            image, pixel = found.image[0, 0, 0].cpu(), found.pixel[0].cpu()
            source = few.images[image][None, :, pixel[..., 0], pixel[..., 1]]
        arrays[f"{name}.nearest"] = source
        nearest[name] = float((sample - source).square().mean().sqrt())
    plain = ImageSet(torch.tensor([-1.0, 1.0])[:, None, None, None].expand(2, 1, SIDE, SIDE).clone(), "black and white")
    start = initial_noise(machines["ideal"].schedule, (1, 1, SIDE, SIDE), 1, device=effort.device)
    # Close to t = 0 a pixel needs as long for every halving of the noise: times are spaced by ratios there.
    times = torch.cat([torch.linspace(1, 0.05, 100, dtype=torch.float64), 0.05 * 0.9 ** torch.arange(1, 150, dtype=torch.float64)])
    times = torch.cat([times, torch.zeros(1, dtype=torch.float64)])
    made = DDIM(EquivariantLocal(plain, patch_size=3, border="circular"), times=times)(start).images
    arrays |= {"plain.data": plain.images, "plain.noise": start[0], "plain.els": made[0]}
    arrays["plain.ideal"] = DDIM(Ideal(plain), STEPS)(start).images[0]
    majority = avg_pool2d(pad(made.sign(), (1, 1, 1, 1), mode="circular"), 3, 1).sign()
    values = {
        "images": len(few), "distance": nearest, "majority": float((majority == made.sign()).double().mean()),
        "finished": float(((made.abs() - 1).abs() < 0.01).double().mean()),
    }  # fmt: skip
    return Numbers(values, arrays)


def draw(numbers: Numbers) -> Figure:
    """A row a machine, a column a time; the mosaic below."""
    arrays = numbers.arrays
    names = [n for n in MODEL if n in arrays]
    figure = plt.figure(figsize=(PAGE, 5.4), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[3.3, 2.0])
    top.suptitle("(a) Digits: the same noise, followed back in time by each machine", x=0.005, ha="left", fontsize=8.5, fontweight="bold")
    grid = top.subplots(len(names), len(SHOWN) + 1)
    for row, name in zip(grid, names, strict=True):
        for axes, image in zip(row, arrays[name], strict=False):
            picture(axes, image)
        picture(row[-1], arrays[f"{name}.nearest"][0])
        row_title(row[0], MODEL[name].replace(" (", "\n("), color=COLOUR[name])
        how = "shifted, " if name == "equivariant" else ""
        row[-1].set_xlabel(f"{how}{numbers.values['distance'][name]:.2f}", fontsize=6.5, labelpad=1)
    for axes, t in zip(grid[0], SHOWN, strict=False):
        axes.set_title(f"$t={t:g}$", loc="center", fontweight="normal", fontsize=7.5)
    grid[0, -1].set_title("nearest in\nthe data", loc="center", fontweight="normal", fontsize=7)
    bottom.suptitle(
        "(b) Two training images, all black and all white: local models make patch mosaics",
        x=0.005, ha="left", fontsize=8.5, fontweight="bold",
    )  # fmt: skip
    panels = bottom.subplots(1, 4)
    both = torch.cat([arrays["plain.data"][0], torch.zeros(1, SIDE, 2), arrays["plain.data"][1]], 2)
    shown = (both, arrays["plain.noise"], arrays["plain.ideal"], arrays["plain.els"])
    titles = ("all the data", "noise", "ideal score: one of the two", "ELS, 3 x 3 patches: a mosaic")
    for axes, image, text in zip(panels, shown, titles, strict=True):
        picture(axes, image)
        axes.set_title(text, loc="center", fontweight="normal", fontsize=7.5)
        for spine in axes.spines.values():
            spine.set(visible=True, color="0.5", linewidth=0.6, linestyle="-")
    share = 100 * numbers.values["majority"]
    panels[-1].set_xlabel(f"{share:.4g}% of pixels have the colour\nof most of their 3 x 3 patch", fontsize=7)
    return figure


def caption(numbers: Numbers) -> str:
    """What the picture shows."""
    v = numbers.values
    return (
        "For each constraint on what a network can do, one denoiser is the best possible, and it is known in closed form (arXiv "
        "2412.20292). "
        "The ideal score (IS) may do anything: it leads back to a training picture. One that treats all places alike (ES) leads to a "
        "shifted "
        "training picture. One that sees only a patch around each pixel (LS), or both, as a convolutional network (ELS), makes new "
        "pictures: mosaics of training patches. Right: the training picture nearest to each sample (for ES, shifted), and the root mean "
        "square "
        f"distance to it per pixel (range 2; {v['images']} digits of 8 x 8 pixels; LS and ELS see 3 x 3 pixels at low noise and up to 7 "
        "x 7 at high, and zeros outside the picture). (b) The plainest case: from an all-black and an "
        "all-white picture (beside each other), "
        "the ideal score "
        "makes one of the two, and ELS any pattern in which each pixel has the colour of the majority of its 3 x 3 patch: in this sample "
        f"{100 * v['majority']:.4g}% of the pixels have (patches wrap around the edges)."
    )


if __name__ == "__main__":
    sys.exit(main())
