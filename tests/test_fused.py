"""The fused engine. Without a GPU its kernel runs in Triton's interpreter; with one it is compiled."""

import math
import os
import subprocess
import sys
from textwrap import dedent

import pytest
import torch

from tests import reference
from tests.contract import DenoiserContract
from tests.helpers import assert_close, noise, random_set
from tests.sums import coefficients, exact, exact_sizes, problem, source_of
from tests.typecheck import import_unchecked
from theory.data import load
from theory.engines.listed.source import stored
from theory.engines.listed.stream import stream_sum
from theory.engines.state import State
from theory.machines import EquivariantLocal, Local

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # is read when triton is imported, and again when a kernel starts
triton = pytest.importorskip("triton", reason="triton is not installed: pip install -e '.[gpu]'")
import_unchecked("theory.engines.listed.fused.kernel")

from theory.engines.listed.fused import engine, kernel  # noqa: E402
from theory.engines.listed.fused.engine import sum_fused  # noqa: E402

MEMORY = 2**26
INTERPRETED = not isinstance(kernel.sum_keys, triton.runtime.jit.JITFunction)
interpreted = pytest.mark.skipif(not INTERPRETED, reason="kernels are compiled here: set TRITON_INTERPRET=1")


@pytest.fixture
def place(device) -> str:
    """A device that kernels run on: interpreted ones on the CPU, compiled ones on the GPU."""
    if (device == "cpu") != INTERPRETED:
        pytest.skip("kernels are " + ("interpreted, on the CPU" if INTERPRETED else "compiled, for the GPU: set TRITON_INTERPRET=1"))
    return device


@pytest.fixture
def small_tiles(monkeypatch) -> None:
    """Tiles of 4 queries and 16 keys: a small problem has several of both."""
    monkeypatch.setattr(engine, "TILE", {torch.float32: (4, 16), torch.float64: (4, 16)})


def fused(q, alpha, sigma, source, memory=MEMORY) -> State:
    """The fused sum, on the device of the queries, back on the CPU."""
    state = sum_fused(q, alpha, sigma, source, memory)
    return State(*(x.cpu() for x in (state.max, state.sum, state.square, state.weighted)))


def given_on(place, *tensors):
    return [x.to(place) for x in tensors]


def summed(q, k, v, w, alpha, sigma, place, memory=MEMORY) -> State:
    q, k, v, w = given_on(place, q, k, v, w)
    return fused(q, *given_on(place, *coefficients(alpha, sigma, q.shape[1])), source_of(k, v, w), memory)


def assert_same(a: State, b: State, rtol=1e-12) -> None:
    for x, y in ((a.mean, b.mean), (a.log_sum, b.log_sum), (a.ess, b.ess)):
        assert_close(x, y, rtol=rtol, atol=rtol)


def watched(monkeypatch) -> list[int]:
    """Numbers of queries that are summed again, call by call."""
    calls = []

    def stream(queries, *args):
        calls.append(queries.shape[1])
        return stream_sum(queries, *args)

    monkeypatch.setattr(engine, "stream_sum", stream)
    return calls


@pytest.mark.parametrize("sigma", [1e-6, 0.01, 0.1, 0.5, 0.999, 100.0])
@pytest.mark.parametrize(("key_dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 3e-5)])
def test_equals_extended_precision(sigma, key_dtype, tolerance, place, small_tiles):
    alpha = 0.8
    q, k, v, w = problem(dtype=key_dtype)
    q = alpha * k[:, :7].double() + sigma * noise((2, 7, 5), 9)
    state = summed(q, k, v, w, alpha, sigma, place)
    log_sum, ess = exact_sizes(q, k, w, alpha, sigma)
    assert_close(state.mean, exact(q, k, v, w, alpha, sigma), atol=tolerance)
    assert_close(state.ess, ess, rtol=tolerance)
    # A query of float64 in units of sigma = 1e-6 has an error of 1e-10; the loss in float32 is that of logits.
    assert_close(state.log_sum, log_sum, rtol=tolerance, atol=max(tolerance, 1e-15 / sigma))


@pytest.mark.parametrize(("dim", "keys"), [(27, 40), (75, 20), (1200, 3)])
def test_float32_is_exact_enough_without_a_second_sum(dim, keys, place, monkeypatch):
    """Sums of many squares too, which are compensated."""
    calls = watched(monkeypatch)
    q, k, v, w = problem(keys=keys, dim=dim, dtype=torch.float32, groups=1)
    k = 0.1 * k
    for sigma in (0.3,) if dim > 1000 else (0.01, 0.3, 0.9):
        q = 0.8 * k[:, torch.arange(7) % keys].double() + sigma * noise((1, 7, dim), 9)
        state = summed(q, k, v, w, 0.8, sigma, place)
        assert_close(state.log_sum, exact_sizes(q, k, w, 0.8, sigma)[0], atol=1e-4)
        assert_close(state.mean, exact(q, k, v, w, 0.8, sigma), atol=3e-5)
    assert calls == []


# ---------------------------------------------------------------------- the same however it is cut


def test_splits_tiles_and_chunks_change_nothing(place, monkeypatch, small_tiles):
    """Keys side by side on the grid, one tile after the other in a program, or read in pieces: all are merged alike."""
    q, k, v, w = problem(groups=2, keys=70, dim=7)
    seen = []
    original = engine._merged
    monkeypatch.setattr(engine, "_merged", lambda best, *rest: seen.append(len(best)) or original(best, *rest))
    for sigma in (0.1, 3.0):
        states = []
        for programs, memory in ((1, MEMORY), (2**10, MEMORY), (10, MEMORY), (1, 2**15), (2**10, 2**13)):
            monkeypatch.setattr(engine, "PROGRAMS", programs)
            states.append(summed(q, k, v, w, 0.9, sigma, place, memory))
        assert_same(states[0], stream_sum(q, *coefficients(0.9, sigma, 7), source_of(k, v, w), MEMORY), 1e-11)
        for state in states[1:]:
            assert_same(state, states[0])
    assert {1, 2, 5} <= set(seen)  # all tiles in one split; three and two; one in each
    assert len(seen) > 2 * 8  # pieces of keys and of queries


@pytest.mark.parametrize("sigma", [0.01, 0.3, 3.0])
def test_cutting_and_merging_changes_nothing(sigma, place):
    q, k, v, w = problem(keys=30)
    merged = State.empty(2, 7, 3, torch.device("cpu"))
    for a, b in ((0, 3), (3, 20), (20, 21), (21, 30)):
        merged = merged.merge(summed(q, k[:, a:b], v[:, a:b], w[:, a:b], 0.9, sigma, place))
    assert_same(merged, summed(q, k, v, w, 0.9, sigma, place))


@pytest.mark.parametrize("sigma", [0.01, 0.3, 3.0])
def test_order_and_a_constant_in_the_log_weights_do_not_matter(sigma, place):
    q, k, v, w = problem()
    order = torch.randperm(k.shape[1], generator=torch.Generator().manual_seed(0))
    a, b = summed(q, k, v, w, 0.9, sigma, place), summed(q, k[:, order], v[:, order], w[:, order] - 200, 0.9, sigma, place)
    assert_close(b.mean, a.mean, atol=1e-10)
    assert_close(b.log_sum, a.log_sum - 200, atol=1e-9)
    assert_close(b.ess, a.ess, rtol=1e-9)


def test_a_constant_in_the_log_weights_costs_no_precision(place, monkeypatch):
    """In float32 a logit of -3000 has a last digit of 2e-4; what is lost there is kept, and no second sum is needed."""
    calls = watched(monkeypatch)
    q, k, v, _ = problem(dtype=torch.float32)
    a, b = (summed(q, k, v, torch.full((2, 40), shift), 0.9, 0.5, place) for shift in (0.0, -3000.0))
    assert_close(b.mean, a.mean, atol=2e-6)
    assert calls == []


def test_a_rounded_scale_of_the_keys_is_made_up_for(place, monkeypatch):
    """Queries are scaled alike, and the cost is stretched: of one key it stays exact, however coarse the scale."""
    q, k, v, _ = problem(keys=1, dtype=torch.float32)
    w = torch.zeros(2, 1)
    scales = engine._scales

    def coarse(alpha, sigma, kind):
        fitted, factor, stretch = scales(alpha, sigma, torch.bfloat16)
        return fitted, factor.to(kind), stretch

    monkeypatch.setattr(engine, "_scales", coarse)
    assert_close(summed(q, k, v, w, 0.9, 0.3, place).log_sum, exact_sizes(q, k, w, 0.9, 0.3)[0], rtol=1e-6)


def test_merged_duplicates_equal_repeated_keys(place):
    """Also in their effective number, which knows the concentration of merged keys."""
    q, k, v, w = problem(groups=2, keys=12)
    index = torch.arange(12).repeat_interleave(torch.tensor([1, 3, 0, 2] * 3))
    copies = source_of(*given_on(place, k[:, index], v[:, index], w[:, index]))
    args = given_on(place, q, *coefficients(0.9, 0.3, 7))
    assert_same(fused(*args, copies), fused(*args, stored(copies)))


# ---------------------------------------------------------------------- weights of zero


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid value:RuntimeWarning")  # of numpy, in the interpreter
def test_keys_of_weight_zero_do_not_count(place, dtype, small_tiles):
    """Neither alone, nor as a whole tile, nor as a whole group."""
    q, k, v, w = problem(groups=2, keys=40, dtype=dtype)
    w[:, ::3] = -math.inf
    w[:, 16:32] = -math.inf
    k[:, 5] = 1e30
    w[:, 5] = -math.inf
    kept = w[0] > -math.inf
    state = summed(q, k, v, w, 0.9, 0.3, place)
    other = summed(q, k[:, kept], v[:, kept], w[:, kept], 0.9, 0.3, place)
    assert_same(state, other, 1e-12 if dtype == torch.float64 else 3e-5)
    w[0] = -math.inf
    half = summed(q, k, v, w, 0.9, 0.3, place)
    assert (half.max[0] == -math.inf).all() and not half.weighted.isnan().any()
    assert_close(half.mean[1], state.mean[1], atol=1e-12)


def test_no_weight_at_all_is_an_empty_state(place, dtype):
    q, k, v, w = problem(dtype=dtype)
    state = summed(q, k, v, torch.full_like(w, -math.inf), 0.9, 0.3, place)
    assert (state.max == -math.inf).all()
    assert (state.sum == 0).all() and (state.square == 0).all() and (state.weighted == 0).all()
    other = summed(q, k, v, w, 0.9, 0.3, place)
    assert_same(other.merge(state), other)


def test_weights_below_the_floor_are_dropped_and_none_is_denormal(place):
    """Two keys, the second with a weight of 2^-55 and 2^-65: the floor of float32 is 2^-60, where squares still are normal."""
    assert 2.0 ** (2 * engine.FLOOR[torch.float32]) > torch.finfo(torch.float32).tiny
    assert 2.0 ** (2 * engine.FLOOR[torch.float64]) > torch.finfo(torch.float64).tiny
    q, k = torch.zeros(1, 1, 2, dtype=torch.float64), torch.zeros(1, 2, 2)
    v = torch.tensor([[[0.0], [2.0**55]]])
    for bits, value in ((55, 1.0), (65, 0.0)):
        w = torch.tensor([[0.0, -bits * math.log(2)]])
        assert_close(summed(q, k, v, w, 0.9, 0.3, place).mean, [[[value]]], rtol=1e-5)


# ---------------------------------------------------------------------- low noise, and noise of all sizes


@pytest.mark.parametrize("sigma", [0.003, 0.03])
def test_each_query_has_its_own_maximum(sigma, place):
    q, k, v, w = problem(groups=1, queries=8, keys=64, dim=50, dtype=torch.float32)
    q = q * torch.linspace(0.1, 10, 8)[None, :, None]  # logits of very different size
    assert_close(summed(q, k, v, w, 0.9, sigma, place).mean, exact(q, k, v, w, 0.9, sigma), atol=1e-6)


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid value:RuntimeWarning")  # of numpy, in the interpreter
def test_batches_of_unequal_noise_do_not_disturb_each_other(place):
    """One call with sigma from 1e-30 to 50, and alpha down to nothing: each query as if it were alone."""
    q, k, v, w = problem(groups=1, queries=8, keys=100, dim=12, dtype=torch.float32)
    sigma = torch.tensor([0.01, 50, 0.1, 5, 0.5, 1, 1e-30, 1], dtype=torch.float64)
    alpha = torch.tensor([1, 1e-45, 0.9, 0.2, 0.7, 0.5, 1, 0], dtype=torch.float64)
    q[:, 6] = k[:, 3].double()
    state = fused(*given_on(place, q, alpha, sigma), source_of(*given_on(place, k, v, w)))
    for i in range(8):
        assert_close(state.mean[:, i], exact(q[:, i : i + 1], k, v, w, float(alpha[i]), float(sigma[i]))[:, 0], atol=3e-5)


def test_low_noise_far_from_the_origin_needs_no_second_sum(place, monkeypatch):
    """Keys close to each other, 3000 sigma from the origin: errors are relative to differences."""
    calls = watched(monkeypatch)
    k = (noise((1, 60, 48), 1) * 0.001 + 30).float()
    v, w = noise((1, 60, 3), 2).float(), torch.zeros(1, 60)
    q = 0.9 * k[:, :10].double() + 0.01 * noise((1, 10, 48), 3)
    assert_close(summed(q, k, v, w, 0.9, 0.01, place).mean, exact(q, k, v, w, 0.9, 0.01), atol=3e-5)
    assert calls == []


def test_queries_that_rounding_would_spoil_are_summed_again(place, monkeypatch):
    """Those far from all keys, and no others."""
    calls = watched(monkeypatch)
    q, k, v, w = problem(groups=1, queries=10, dtype=torch.float32)
    far = torch.arange(10) % 3 == 1
    sigma = torch.where(far, 0.004, 2.0).double()
    state = fused(*given_on(place, q, torch.ones(10).double(), sigma), source_of(*given_on(place, k, v, w)))
    for i in range(10):
        assert_close(state.mean[:, i], exact(q[:, i : i + 1], k, v, w, 1.0, float(sigma[i]))[:, 0], atol=3e-5)
    assert calls == [int(far.sum())]


@pytest.mark.parametrize("kind", ["photos", "noise", "constant"])
@pytest.mark.parametrize("size", [3, 7])
def test_rounding_errors_stay_below_their_bound(kind, size, place, monkeypatch):
    """Of every logit that matters: each key is a group of its own, whose log-sum is its logit."""
    monkeypatch.setattr(engine, "TILE", {torch.float32: (128, 1)})
    images = {
        "photos": lambda: load("photos:count=15,size=8").images,
        "noise": lambda: noise((15, 3, 8, 8)).float(),
        "constant": lambda: torch.linspace(-1, 1, 15).reshape(15, 1, 1, 1).expand(15, 3, 8, 8),
    }[kind]()
    k = images[:, :, :size, :size].flatten(1)[:, None]
    source = source_of(*given_on(place, k, torch.ones(15, 1, 1), torch.zeros(15, 1)))
    sigma = torch.tensor([0.01, 0.1, 0.4, 0.95, 3.0]).double().repeat(25)
    alpha = (1 - sigma.clamp(max=0.95) ** 2).sqrt()
    q = alpha[:, None] * k[torch.arange(125) % 14, 0]
    q = (0.9 * q + 0.01 if kind == "constant" else q + sigma[:, None] * noise(q.shape, 1))[None]
    state, error = engine._summed(*given_on(place, q.expand(15, -1, -1), alpha, sigma), source, MEMORY)
    true = -(q - alpha[:, None] * k.double()).square().sum(-1) / (2 * sigma**2)
    near = true > true.amax(0) - engine.WITHIN
    found, bound = ((state.log_sum.cpu() - true).abs() * near).amax(0), error.cpu().amin(0)
    assert bool((found <= bound).all())
    assert float((found / bound).max()) > 0.1  # and the bound is not idle


# ---------------------------------------------------------------------- where it runs


def test_values_of_many_numbers_are_left_to_the_stream(place, monkeypatch):
    calls = watched(monkeypatch)
    for width in (engine.VALUES, engine.VALUES + 1):
        q, k, v, w = problem(value_dim=width)
        assert_close(summed(q, k, v, w, 0.9, 0.3, place).mean, exact(q, k, v, w, 0.9, 0.3), atol=1e-11)
    assert calls == [7]


def test_triton_is_loaded_late_and_refuses_the_cpu_without_its_interpreter():
    script = """
        import sys, torch
        from theory.data import ImageSet
        from theory.errors import InputError
        from theory.machines import Local
        assert "triton" not in sys.modules
        model = Local(ImageSet(torch.zeros(2, 1, 4, 4), "zeros"), patch_size=3, engine="triton")
        try:
            model(torch.zeros(1, 1, 4, 4), 0.5)
        except InputError as error:
            print(error)
    """
    out = run(script)
    assert out.startswith("engine='triton' here, where it needs noisy images on a GPU; ") and out.count("\n") == 1


@pytest.mark.skipif(tuple(map(int, triton.__version__.split(".")[:2])) < (3, 9), reason="written for the compiler of triton 3.9")
def test_the_kernel_compiles_for_gpus():
    """Which needs none: the interpreter accepts more than the compiler. Arguments equal to 1 are compiled as such."""
    script = """
        import inspect, torch, triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource
        from theory.engines.listed.fused import engine
        from theory.engines.listed.fused.kernel import sum_keys
        names = list(inspect.signature(sum_keys.fn).parameters)
        for dtype, kind in ((torch.float32, "*fp32"), (torch.float64, "*fp64")):
            (high, wide), floor, split = engine.TILE[dtype], engine.FLOOR[dtype], kind == "*fp32"
            for ones, high, merged in ((), high, True), (("steps", "tiles", "query_count"), 1, False):
                fixed = dict(QUERIES=high, KEYS=wide, DIMS=engine.DIMS, VALUES=3, WIDTH=4, SPLIT=split, MERGED=merged, FLOOR=floor)
                fixed |= dict.fromkeys(ones, 1)
                types = dict.fromkeys(names[:7], kind) | dict.fromkeys(names[7:9], "*fp64") | dict.fromkeys(names[9:13], "i32")
                types |= dict.fromkeys(fixed, "constexpr")
                source = ASTSource(sum_keys, types, {(names.index(name),): value for name, value in fixed.items()})
                options = {"num_warps": engine.WARPS, "enable_fp_fusion": True}
                compiled = triton.compile(source, target=GPUTarget("cuda", 80, 32), options=options)
                assert ".entry sum_keys" in compiled.asm["ptx"] and len(compiled.asm["cubin"]) > 0
                print(kind)
    """
    assert run(script).split() == ["*fp32"] * 2 + ["*fp64"] * 2


def run(script: str) -> str:
    """What a Python of its own prints, without the interpreter of Triton."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", dedent(script)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---------------------------------------------------------------------- machines


@interpreted
class TestEquivariantLocal(DenoiserContract):
    @pytest.fixture(autouse=True)
    def _tall_tiles(self, monkeypatch) -> None:
        """All queries in one program, to be interpreted sooner."""
        monkeypatch.setattr(engine, "TILE", dict.fromkeys(engine.TILE, (64, 128)))

    def make(self, data, schedule=None, **options):
        return EquivariantLocal(data, schedule, **({"engine": "triton", "patch_size": 3, "border": "circular"} | options))

    def exact(self, x, images, weights, alpha, sigma):
        return reference.equivariant_local(x, images, weights, alpha, sigma, (3, 3), "circular")


@pytest.mark.parametrize("machine", [Local, EquivariantLocal])
def test_machines_with_groups_and_border_classes_agree_with_the_stream(machine, place, dtype):
    data, x = random_set(), noise((2, 2, 5, 4), seed=12, dtype=dtype).to(place)
    a, b = (machine(data, patch_size=3, engine=name)(x, 0.3) for name in ("triton", "stream"))
    for mine, other in zip(a, b, strict=True):
        assert_close(mine, other, rtol=1e-11 if dtype == torch.float64 else 3e-5)
