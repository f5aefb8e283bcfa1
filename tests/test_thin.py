"""Products of few rows with many: against float64, for numbers of rows that are no multiples of anything; and that they are used."""

import pytest
import torch

from tests.helpers import assert_close, noise
from theory.data import ImageSet
from theory.engines.listed import thin
from theory.machines import Ideal


@pytest.mark.parametrize("keys", [6, 7, 95, 97, 770, 1601])
@pytest.mark.parametrize(("queries", "width"), [(64, 512), (52, 1100), (120, 777)])
def test_inner_products(queries, width, keys):
    a, b = noise((queries, width), 1).float(), noise((keys, width), 2).float()
    assert thin.suits(queries, b)
    exact = a.double() @ b.double().T
    # Errors of single terms are independent: a few units of the product of the lengths.
    assert_close(thin.inner(a, b), exact, atol=3 * 2.0**-24 * float(a.norm(dim=1).max() * b.norm(dim=1).max()))


SMALL = [(10, (100, 600), torch.float32), (64, (5, 600), torch.float32), (64, (100, 60), torch.float32), (64, (100, 600), torch.float64)]


@pytest.mark.parametrize(("queries", "shape", "dtype"), SMALL, ids=["few queries", "few keys", "short keys", "float64"])
def test_other_products_are_left_to_the_library(queries, shape, dtype):
    assert not thin.suits(queries, torch.zeros(shape, dtype=dtype))


@pytest.mark.parametrize("sigma_time", [0.05, 0.5, 0.97])
def test_the_ideal_score_of_a_batch_uses_them_and_stays_the_same(sigma_time, monkeypatch):
    images = (noise((300, 3, 14, 14), 1) * 0.4).clamp(-1, 1).float()
    x = (images[:60] + 0.3 * noise((60, 3, 14, 14), 2)).float()
    calls = []
    monkeypatch.setattr(thin, "inner", lambda *a, inner=thin.inner: calls.append(len(a[0])) or inner(*a))
    model = Ideal(ImageSet(images, "noise"))
    found, exact = model(x, sigma_time), model(x.double(), sigma_time)
    assert calls == [60]
    assert_close(found.mean, exact.mean, atol=2e-5)
    assert_close(found.log_evidence, exact.log_evidence, rtol=1e-6)
