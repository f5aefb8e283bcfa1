"""Networks from elsewhere, each a `Denoiser`: one file and one entry in `OUTSIDE` for each kind.

- ``diffusers:DIR``: a folder in the format of the library ``diffusers`` (extra ``diffusers``);
- ``module:FILE.py:NAME``: a callable or module of the user's own, ``(x_t, t)`` or ``(x_t, t, label)``;
- ``azula:FILE.py:NAME``: a denoiser of azula (extra ``azula``);
- ``edm:FILE.pt,code=DIR``: weights of EDM (arXiv 2206.00364), with the network of its published code;
- ``kamb:FILE.pt``: a checkpoint of the published code of arXiv 2412.20292.

Options follow after commas, as ``key=value``; every kind's function documents its own. Weights are read as safetensors, or by
``torch.load(weights_only=True)``: nothing pickled ever runs. Code runs only where it is named as such: ``FILE.py`` and ``code=``.
"""

from collections.abc import Callable

from empirical.outside.azula import azula_file
from empirical.outside.diffusers import diffusers_folder
from empirical.outside.edm import edm_file
from empirical.outside.given import Given
from empirical.outside.kamb import kamb_file
from empirical.outside.module import module_file
from theory.denoiser import Denoiser

OUTSIDE: dict[str, Callable[[Given], Denoiser]] = {
    "diffusers": diffusers_folder,
    "module": module_file,
    "azula": azula_file,
    "edm": edm_file,
    "kamb": kamb_file,
}

__all__ = ["OUTSIDE", "Given"]
