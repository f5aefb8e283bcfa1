"""What all networks check of their arguments, whoever trained them."""

import torch
from torch import Tensor

from theory.errors import InputError
from theory.types import Images, Times


def checked_times(x_t: Images, t: Times, shape: tuple[int, ...]) -> Tensor:
    """The time of each noisy image, with shape ``(B,)``, in float64.

    Args:
        x_t: Noisy images ``(B, C, H, W)``.
        t: One time for all, or one each.
        shape: Channels, height and width that the network was trained on.

    Raises:
        InputError: If there is no image, one has another shape or is not finite, or times and images don't match.
    """
    if tuple(x_t.shape[1:]) != shape or len(x_t) == 0:
        expected = f"(B, {', '.join(map(str, shape))})"
        raise InputError(f"x_t of shape {tuple(x_t.shape)}", expected, "use images like those the network was trained on")
    if not x_t.isfinite().all():
        raise InputError("x_t with NaN or infinite pixels", "finite noisy images", "check where they come from")
    times = torch.as_tensor(t, dtype=torch.float64, device=x_t.device)
    if times.ndim > 1 or (times.ndim == 1 and len(times) != len(x_t)):
        given = f"time t of shape {tuple(times.shape)} for {len(x_t)} images"
        raise InputError(given, f"shape () or ({len(x_t)},)", "pass one or one each")
    return times.expand(len(x_t))
