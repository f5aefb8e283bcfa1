"""The engine: a monoid, exact however it is cut, at any noise level; and each pitfall of public code."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import assert_close, noise, random_images, random_set, refused
from tests.sums import coefficients, exact, problem, source_of
from theory.data import ImageSet
from theory.engines.listed import fused
from theory.engines.listed import stream as engine
from theory.engines.listed.dense import dense_sum
from theory.engines.listed.problems import problems
from theory.engines.listed.source import stored
from theory.engines.listed.stream import FLOOR, _chunks, _product, _Tile
from theory.engines.listed.stream import stream_sum as stream
from theory.engines.state import State
from theory.errors import InputError
from theory.machines import EquivariantLocal, Ideal, Local

MEMORY = 2**26


@pytest.mark.parametrize("sigma", [1e-6, 0.01, 0.1, 0.5, 0.999, 100.0])
@pytest.mark.parametrize(("key_dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 3e-5)])
def test_stream_equals_extended_precision(sigma, key_dtype, tolerance):
    alpha = 0.8
    q, k, v, w = problem(dtype=key_dtype)
    q = alpha * k[:, :7].double() + sigma * noise((2, 7, 5), 9)
    state = stream(q, *coefficients(alpha, sigma, 7), source_of(k, v, w), MEMORY)
    assert_close(state.mean, exact(q, k, v, w, alpha, sigma), atol=tolerance)


# ---------------------------------------------------------------------- the monoid


def states(seed: int, count: int) -> list[State]:
    q, k, v, w = problem(keys=4 * count, seed=seed)
    return [stream(q, *coefficients(0.9, 0.3, 7), source_of(k[:, i::count], v[:, i::count], w[:, i::count]), MEMORY) for i in range(count)]


def assert_same(a: State, b: State) -> None:
    for x, y in ((a.mean, b.mean), (a.log_sum, b.log_sum), (a.ess, b.ess)):
        assert_close(x, y, rtol=1e-12, atol=1e-12)


def test_merge_is_associative_and_commutative():
    a, b, c = states(0, 3)
    assert_same(a.merge(b).merge(c), a.merge(b.merge(c)))
    assert_same(a.merge(b), b.merge(a))


def test_empty_state_is_neutral():
    (a,) = states(0, 1)
    empty = State.empty(2, 7, 3, torch.device("cpu"))
    assert_same(a.merge(empty), a)
    assert_same(empty.merge(a), a)
    assert (empty.merge(empty).max == -math.inf).all() and (empty.merge(empty).sum == 0).all()


@given(cuts=st.lists(st.integers(0, 30), max_size=4), seed=st.integers(0, 100), sigma=st.sampled_from([0.01, 0.3, 3.0]))
@settings(max_examples=30, deadline=None)
def test_cutting_and_merging_changes_nothing(cuts, seed, sigma):
    q, k, v, w = problem(keys=30, seed=seed)
    whole = stream(q, *coefficients(0.9, sigma, 7), source_of(k, v, w), MEMORY)
    merged = State.empty(2, 7, 3, q.device)
    edges = [0, *sorted(cuts), 30]
    for a, b in zip(edges[:-1], edges[1:], strict=True):
        if b > a:
            merged = merged.merge(stream(q, *coefficients(0.9, sigma, 7), source_of(k[:, a:b], v[:, a:b], w[:, a:b]), MEMORY))
    assert_same(merged, whole)


@given(shift=st.floats(-200, 200), seed=st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_a_constant_in_the_log_weights_only_shifts_the_evidence(shift, seed):
    q, k, v, w = problem(seed=seed)
    a = stream(q, *coefficients(0.9, 0.2, 7), source_of(k, v, w), MEMORY)
    b = stream(q, *coefficients(0.9, 0.2, 7), source_of(k, v, w + shift), MEMORY)
    assert_close(b.mean, a.mean, atol=1e-10)
    assert_close(b.log_sum, a.log_sum + shift, atol=1e-9)


@given(seed=st.integers(0, 1000), sigma=st.sampled_from([0.01, 0.3, 3.0]))
@settings(max_examples=20, deadline=None)
def test_order_of_keys_does_not_matter(seed, sigma):
    q, k, v, w = problem(seed=seed)
    order = torch.randperm(k.shape[1], generator=torch.Generator().manual_seed(seed))
    a = stream(q, *coefficients(0.9, sigma, 7), source_of(k, v, w), MEMORY)
    b = stream(q, *coefficients(0.9, sigma, 7), source_of(k[:, order], v[:, order], w[:, order]), MEMORY)
    assert_same(a, b)


@given(repeats=st.lists(st.integers(0, 3), min_size=12, max_size=12), seed=st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_merged_duplicates_equal_repeated_keys(repeats, seed):
    """`stored` merges equal rows; the posterior with all copies is the same, and rows are really fewer."""
    repeats[0] += 1  # at least one key
    q, k, v, w = problem(groups=2, keys=12, seed=seed)
    index = torch.arange(12).repeat_interleave(torch.tensor(repeats))
    copies = source_of(k[:, index], v[:, index], w[:, index])
    merged = stored(copies)
    assert merged.items == sum(r > 0 for r in repeats)
    args = (q, *coefficients(0.9, 0.3, 7))
    a, b = stream(*args, copies, MEMORY), stream(*args, merged, MEMORY)
    assert_close(a.mean, b.mean, atol=1e-12)
    assert_close(a.log_sum, b.log_sum, atol=1e-12)


def test_groups_with_different_numbers_of_distinct_keys():
    q, k, v, w = problem(groups=2, keys=6)
    k[1], v[1] = k[1, :1].expand(6, -1).clone(), v[1, :1].expand(6, -1).clone()
    merged = stored(source_of(k, v, w))
    assert merged.items == 6
    assert_close(stream(q, *coefficients(0.9, 0.3, 7), merged, MEMORY).mean, exact(q, k, v, w, 0.9, 0.3), atol=1e-12)


def test_rows_equal_in_key_but_not_in_value_stay_apart():
    q, k, v, w = problem(groups=1, keys=4)
    k = k[:, :1].expand(-1, 4, -1).clone()
    merged = stored(source_of(k, v, w))
    assert merged.items == 4
    assert_close(stream(q, *coefficients(0.9, 0.3, 7), merged, MEMORY).mean, exact(q, k, v, w, 0.9, 0.3), atol=1e-12)


# ---------------------------------------------------------------------- pitfalls


@pytest.mark.parametrize("machine", [Ideal, Local, EquivariantLocal])
@pytest.mark.parametrize("sigma_time", [0.01, 0.3, 0.95])
def test_result_does_not_depend_on_the_memory_budget(machine, sigma_time):
    """Hence not on chunk sizes: the small budget cuts the keys into pieces, of unequal size."""
    data = ImageSet(random_images(97, 3, 20, 20), "random")
    x = (data.images[:5] + 0.3 * noise((5, 3, 20, 20), 1)).float()
    options = {} if machine is Ideal else {"patch_size": 7}
    small, large = (machine(data, memory=memory, **options)(x, sigma_time) for memory in (2**24, 2**31))
    for a, b in zip(small, large, strict=True):
        assert_close(a, b, rtol=2e-5)


def test_the_small_budget_really_cuts():
    data = ImageSet(random_images(97, 3, 20, 20), "random")
    model = EquivariantLocal(data, patch_size=7, memory=2**24)
    source = list(problems(model.meetings((7, 7)), data.images, torch.zeros(97)))[24].source
    pieces = list(_chunks(source, 2000, 2**23, torch.device("cpu")))
    assert len(pieces) > 3 and len({stop - start for start, stop, _ in pieces}) > 1


@pytest.mark.parametrize("sigma", [0.003, 0.01, 0.03])
def test_each_query_has_its_own_maximum(sigma):
    """A maximum shared over the batch would underflow all but one query at low noise."""
    q, k, v, w = problem(groups=1, queries=8, keys=64, dim=50, dtype=torch.float32)
    q = q * torch.linspace(0.1, 10, 8)[None, :, None]  # logits of very different size
    state = stream(q, *coefficients(0.9, sigma, 8), source_of(k, v, w), MEMORY)
    assert_close(state.mean, exact(q, k, v, w, 0.9, sigma), atol=1e-6)


def test_no_denormal_numbers_reach_a_product(monkeypatch):
    """Denormal factors make matrix products ten times slower: weights and their products with values stay normal."""
    seen = []

    def watched(a, b):
        seen.append(a)
        return _product(a, b)

    monkeypatch.setattr(engine, "_product", watched)
    q, k, v, w = problem(groups=1, queries=50, keys=500, dim=8, dtype=torch.float32)
    for sigma in (0.02, 0.05, 0.1, 0.2, 0.5):
        stream(q, *coefficients(0.9, sigma, 50), source_of(k, v, w), MEMORY)
    weights = [a for a in seen if a.dtype == torch.float32 and (a >= 0).all()]
    smallest = min(float(a[a > 0].min()) for a in weights)
    assert len(weights) >= 3 and smallest >= 0.9 * math.exp(FLOOR) > 1e11 * torch.finfo(torch.float32).tiny


@pytest.mark.parametrize("offset", [0.0, 1.0, 30.0])
def test_cancellation_at_low_noise(offset):
    """Keys far from the origin and close to each other: the expanded form alone loses every digit."""
    k = (noise((1, 200, 147), 1) * 0.001 + offset).float()
    v, w = noise((1, 200, 3), 2).float(), torch.zeros(1, 200)
    sigma = 0.01
    q = k[:, :20].double() + sigma * noise((1, 20, 147), 3)
    expected = exact(q, k, v, w, 1.0, sigma)
    state = stream(q, *coefficients(1.0, sigma, 20), source_of(k, v, w), MEMORY)
    assert_close(state.mean, expected, rtol=1e-5)
    if offset:
        logits = (q.float() @ k.mT - k.square().sum(-1)[:, None] / 2) / sigma**2
        naive = torch.softmax(logits, -1) @ v
        assert float((naive - expected).abs().max()) > 1e-3  # what the screening protects from


@pytest.mark.parametrize(("spread", "path"), [(0.3, "direct"), (0.02, "exact")])
def test_few_and_many_candidates_are_computed_again_in_float64(spread, path, monkeypatch):
    """Far from the origin no float32 logit can be trusted. Keys wide apart leave few candidates, and direct
    differences are cheap; keys close together leave many, and a float64 product takes over."""
    calls = {"exact": 0, "direct": 0}
    for name, method in (("exact", _Tile._exact), ("direct", _Tile._direct)):

        def counted(self, *args, name=name, method=method):
            calls[name] += 1
            return method(self, *args)

        monkeypatch.setattr(_Tile, f"_{name}", counted)
    k = (noise((1, 3000, 50), 1) * spread + 5).float()
    v, w, sigma = noise((1, 3000, 3), 2).float(), torch.zeros(1, 3000), 0.1
    q = k[:, :30].double() + sigma * noise((1, 30, 50), 3)
    state = stream(q, *coefficients(1.0, sigma, 30), source_of(k, v, w), MEMORY)
    assert_close(state.mean, exact(q, k, v, w, 1.0, sigma), atol=1e-6)
    assert calls[path] > 0
    assert sum(calls.values()) == calls[path]


def test_products_ignore_reduced_precision_settings(monkeypatch):
    """TF32 and bfloat16 products may be allowed process-wide; they are never used here, and the setting is restored."""
    seen = []
    original = torch.Tensor.__matmul__
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: seen.append(torch.get_float32_matmul_precision()) or original(a, b))
    torch.set_float32_matmul_precision("medium")
    try:
        q, k, v, w = problem(groups=1, dtype=torch.float32)
        stream(q, *coefficients(0.9, 0.5, 7), source_of(k, v, w), MEMORY)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen and set(seen) == {"highest"}


def test_batches_of_unequal_noise_do_not_disturb_each_other():
    """One call with sigma from 0.01 to 50: each query as if it were alone."""
    q, k, v, w = problem(groups=1, queries=6, keys=300, dim=12, dtype=torch.float32)
    sigma = torch.tensor([0.01, 50, 0.1, 5, 0.5, 1], dtype=torch.float64)
    alpha = torch.tensor([1, 0.01, 0.9, 0.2, 0.7, 0.5], dtype=torch.float64)
    state = stream(q, alpha, sigma, source_of(k, v, w), MEMORY)
    for i in range(6):
        assert_close(state.mean[:, i], exact(q[:, i : i + 1], k, v, w, float(alpha[i]), float(sigma[i]))[:, 0], atol=3e-5)


def test_effective_sample_size_of_a_uniform_posterior_counts_the_keys():
    q, k, v, w = problem(groups=1, keys=40)
    state = stream(q, *coefficients(1e-9, 1.0, 7), source_of(k, v, torch.zeros_like(w)), MEMORY)
    assert_close(state.ess, torch.full((1, 7), 40.0), rtol=1e-9)


def test_effective_sample_size_with_weights_whose_squares_underflow():
    images = torch.zeros(4, 1, 2, 2)
    images[2:] = -0.5
    data = ImageSet(images, "tiny", weights=torch.tensor([1, 1, 1e-300, 1e-300], dtype=torch.float64))
    for machine in (EquivariantLocal(data, patch_size=3, engine="stream"), Ideal(data)):
        assert_close(machine(torch.zeros(1, 1, 2, 2, dtype=torch.float64), 0.3).ess.flatten()[0], 2.0, rtol=1e-9)


def test_effective_sample_size_counts_merged_candidates_one_by_one():
    """Merging equal keys saves work; it must not show. Weights 1, 2 and 3 of one key count as three candidates."""
    k, v = torch.zeros(1, 4, 2), torch.zeros(1, 4, 1)
    k[0, 3] = 1
    w = torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64).log()
    whole = source_of(k.double(), v.double(), w)
    small, q = stored(whole), torch.full((1, 1, 2), 0.3, dtype=torch.float64)
    assert small.items == 2
    states = [f(q, *coefficients(0.9, 0.8, 1), s, MEMORY) for f in (stream, dense_sum) for s in (whole, small)]
    p = torch.exp(w[0] - (0.3 - 0.9 * k[0, :, 0].double()) ** 2 * 2 / (2 * 0.8**2))
    for state in states:
        assert_close(state.ess, (p.sum() ** 2 / p.square().sum())[None, None], rtol=1e-12)


def test_the_fused_engine_asks_for_triton_when_it_is_not_installed(monkeypatch):
    monkeypatch.setattr(fused, "find_spec", lambda name: None)
    with pytest.raises(InputError) as error:
        EquivariantLocal(random_set(), patch_size=3, engine="triton")
    refused(error, "engine='triton' without triton", "pip install triton")
    with pytest.raises(InputError):
        fused.fused_sum(*problem()[:1], *coefficients(0.9, 0.3, 7), source_of(*problem()[1:]), MEMORY)
