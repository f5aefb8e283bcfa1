"""``edm:FILE.pt,code=DIR``: weights of EDM (arXiv 2206.00364), in the network of its published code.

That code (https://github.com/NVlabs/edm) publishes pickles that carry their own source; such a file is never opened here. One line, run
where its code is, takes the weights out, and says how its network is made:

    python -c "import pickle, torch; n = pickle.load(open('edm.pkl', 'rb'))['ema']; torch.save({'class': type(n).__name__, 'options':
    dict(n.init_kwargs), 'weights': n.state_dict()}, 'edm.pt')"

The file is then read by ``torch.load(weights_only=True)``, and the network made by the class of that name in ``training/networks.py``
below ``code=``, your clone of that repository: its code runs because you name it.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from empirical.outside import weights
from empirical.outside.denoiser import OutsideDenoiser
from empirical.outside.given import Given
from empirical.outside.module import imported
from theory.errors import InputError
from theory.noise import EDMSchedule

LINE = (
    "python -c \"import pickle, torch; n = pickle.load(open('edm.pkl', 'rb'))['ema']; torch.save({'class': type(n).__name__, "
    "'options': dict(n.init_kwargs), 'weights': n.state_dict()}, 'edm.pt')\""
)
PARTS = ("class", "options", "weights")


def edm_file(given: Given) -> OutsideDenoiser:
    """The network of a converted file, on EDM's own noise levels (.002 to 80). Options: ``code=`` (the clone), ``label=``.

    Raises:
        InputError: If the file was not converted, the code does not make its network, or it is for other images.
    """
    given.only("code", "label")
    held = weights.read(given.file(), convert=f"convert it where EDM's code is: {LINE}")
    if not isinstance(held, dict) or set(held) != set(PARTS):
        shown = ", ".join(map(str, held))[:80] if isinstance(held, dict) else type(held).__name__
        raise InputError(f"{given.path} with {shown}", f"{', '.join(PARTS)}", f"convert the pickle where EDM's code is: {LINE}")
    size, channels, classes = (held["options"].get(key) for key in ("img_resolution", "img_channels", "label_dim"))
    if (channels, size, size) != tuple(given.shape):
        mine, expected = f"{channels} x {size} x {size}", " x ".join(map(str, given.shape))
        raise InputError(f"{given.spec} for images of {mine}", f"{expected}, the shape of the data", "name the data it was trained on")
    network = _made(given, held)
    classes = classes or 0

    def asked(x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        return network(x, sigma, None if label is None else one_hot(label, classes).to(x))

    return (
        OutsideDenoiser(
            asked, EDMSchedule(), "sample", given.shape,
            name=given.spec, time="sigma", classes=classes, label=given.number("label"), module=network,
        )
        .to(given.device)
        .probed()
    )  # fmt: skip


def _made(given: Given, held: dict[str, Any]) -> nn.Module:
    """The network of the published code, with exactly these weights."""
    file = Path(given.options.get("code", "")) / "training" / "networks.py"
    if "code" not in given.options or not file.is_file():
        where = f"code={given.options['code']}" if "code" in given.options else "no code="
        raise InputError(f"{given.spec} with {where}", "a clone of github.com/NVlabs/edm, with training/networks.py", "add code=DIR")
    root = str(Path(given.options["code"]).resolve())
    sys.path.insert(0, root)  # its modules import each other from there
    try:
        module = imported(str(file), given.spec)
        kind = getattr(module, held["class"], None)
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
            raise InputError(f"{file} without a network {held['class']!r}", "the class the weights are of", "use the code that made them")
        network = kind(**held["options"])
        network.load_state_dict(held["weights"])
        if hasattr(network, "use_fp16"):
            network.use_fp16 = False
        return network
    except (TypeError, ValueError, RuntimeError, torch.OutOfMemoryError) as error:
        if isinstance(error, InputError):
            raise
        told = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(
            f"{given.spec} ({told})", "weights and options of one network", "convert the pickle again with that code"
        ) from error
    finally:
        sys.path.remove(root)
