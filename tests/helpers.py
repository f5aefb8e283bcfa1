"""Small problems and the assertion all numerical tests share."""

import torch

from theory.data import ImageSet


def assert_close(actual, expected, *, rtol: float = 0.0, atol: float = 0.0) -> None:
    """Equal shapes, no NaN, and a largest error within ``atol + rtol * max|expected|``; prints the worst."""
    actual, expected = (torch.as_tensor(x, dtype=torch.float64).detach().cpu() for x in (actual, expected))
    assert actual.shape == expected.shape, f"shapes {tuple(actual.shape)} and {tuple(expected.shape)}"
    assert not actual.isnan().any(), f"{int(actual.isnan().sum())} of {actual.numel()} numbers are NaN"
    worst = float((actual - expected).abs().max())
    allowed = atol + rtol * float(expected.abs().max())
    assert worst <= allowed, f"worst error {worst:.3e}, allowed {allowed:.3e}"


def random_images(count: int, channels: int = 2, height: int = 5, width: int = 4, seed: int = 0) -> torch.Tensor:
    """Uniform pixels in [-1, 1], float32."""
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def random_set(count: int = 6, seed: int = 0, **shape) -> ImageSet:
    """Random images with unequal weights and two classes."""
    weights = torch.rand(count, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64) + 0.1
    return ImageSet(random_images(count, seed=seed, **shape), "random", weights=weights, labels=torch.arange(count) % 2)


def noise(shape, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def refused(error, *words) -> None:
    """An input error in one line that says what was given and expected, with these words in it."""
    message = str(error.value)
    assert "\n" not in message
    assert " expected " in message
    assert message.endswith(".")
    for word in words:
        assert word in message
