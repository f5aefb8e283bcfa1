"""Networks of the library diffusers: the same posterior mean and the same samples as the library's own, for each prediction."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.helpers import assert_close, refused
from theory.data import ImageSet
from theory.errors import InputError
from theory.sampling import DDIM

diffusers = pytest.importorskip("diffusers", reason="networks of diffusers need the extra diffusers")

from empirical.compare import compare  # noqa: E402
from empirical.models import is_network, open_model  # noqa: E402
from empirical.outside.diffusers import between, times  # noqa: E402

LEVELS = (0, 1, 10, 99, 250, 500, 700, 900, 990, 999)
TYPES = ("epsilon", "v_prediction", "sample")


def images(size=8, channels=1):
    pixels = torch.rand(6, channels, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return ImageSet(pixels, "random", labels=torch.arange(6) % 3, range="signed")


def noisy(count=3, size=8, channels=1):
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(1))


def unet(path, prediction_type="epsilon", scheduler=None, folders=False, seed=0, **options):
    """A small network as ``save_pretrained`` writes it; returns it and its scheduler."""
    torch.manual_seed(seed)
    config = {
        "sample_size": 8, "in_channels": 1, "out_channels": 1, "layers_per_block": 1, "block_out_channels": (16, 16), "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"), **options,
    }  # fmt: skip
    network = diffusers.UNet2DModel(**config).eval()
    scheduler = scheduler or diffusers.DDPMScheduler(prediction_type=prediction_type)
    network.save_pretrained(path / "unet" if folders else path)
    scheduler.save_pretrained(path / "scheduler" if folders else path)
    return network, scheduler


def by_hand(network, scheduler, x, i, **options):
    """The clean image as a user of the library writes it down, formula by formula."""
    with torch.no_grad():
        out = network(x, i, **options).sample.double()
    a = float(scheduler.alphas_cumprod[i])
    x = x.double()
    return {
        "epsilon": (x - (1 - a) ** 0.5 * out) / a**0.5,
        "v_prediction": a**0.5 * x - (1 - a) ** 0.5 * out,
        "sample": out,
    }[scheduler.config.prediction_type]


@pytest.mark.parametrize(
    ("prediction", "betas"), [*((p, "linear") for p in TYPES), ("epsilon", "scaled_linear"), ("v_prediction", "squaredcos_cap_v2")]
)
def test_the_posterior_mean_is_that_of_the_library_at_ten_levels(tmp_path, prediction, betas):
    scheduler = diffusers.DDPMScheduler(prediction_type=prediction, beta_schedule=betas)
    network, scheduler = unet(tmp_path, scheduler=scheduler)
    model, x = open_model(f"diffusers:{tmp_path}", images()), noisy()
    for i in LEVELS:
        # Of the largest pixel: at the last level of squaredcos_cap_v2 the noise is divided by alpha = 5e-5.
        assert_close(model.denoise(x, (i + 1) / 1000), by_hand(network, scheduler, x, i), rtol=1e-6)


@pytest.mark.parametrize("kind", ["PNDMScheduler", "EulerDiscreteScheduler"])
def test_any_scheduler_of_one_forward_process_tells_the_same_levels(tmp_path, kind):
    network, scheduler = unet(tmp_path, scheduler=getattr(diffusers, kind)(), folders=True)
    x = noisy()
    assert_close(open_model(f"diffusers:{tmp_path}", images()).denoise(x, 0.4), by_hand(network, scheduler, x, 399), rtol=1e-6)


def ddim(network, scheduler, steps, x):
    """The library's own loop."""
    scheduler.set_timesteps(steps)
    with torch.no_grad():
        for i in scheduler.timesteps:
            x = scheduler.step(network(x, i).sample, i, x).prev_sample
    return x


@pytest.mark.parametrize(
    ("prediction", "options"),
    [
        *((p, {"timestep_spacing": "trailing"}) for p in TYPES),
        ("sample", {"timestep_spacing": "leading"}),
        ("epsilon", {"steps_offset": 1}),
    ],
    ids=str,
)
def test_samples_are_those_of_the_librarys_ddim(tmp_path, prediction, options):
    network, scheduler = unet(tmp_path, prediction)
    theirs = diffusers.DDIMScheduler.from_config(scheduler.config, clip_sample=False, **options)
    model, x = open_model(f"diffusers:{tmp_path}", images()), noisy()
    expected = ddim(network, theirs, 10, x)
    ours = DDIM(model, times=times(theirs, 10))(x).images
    assert_close(ours, expected, rtol=1e-5)  # untrained, it predicts pixels of 500; a trained one keeps within 1e-5 as such
    if options.get("timestep_spacing") == "trailing":
        assert_close(times(theirs, 10), torch.linspace(1, 0, 11, dtype=torch.float64), atol=1e-12)
        assert_close(ours, DDIM(model, steps=10)(x).images, rtol=1e-5)  # our own equal steps


def test_why_other_settings_of_the_library_make_other_images(tmp_path):
    network, scheduler = unet(tmp_path, "sample")
    model, x = open_model(f"diffusers:{tmp_path}", images()), noisy()

    def made(**options):
        theirs = diffusers.DDIMScheduler.from_config(scheduler.config, **{"clip_sample": False, **options})
        return theirs, ddim(network, theirs, 12, x), DDIM(model, times=times(theirs, 12))

    # The last step ends at the first level: x_0 + what noise is left there.
    theirs, ends, sampler = made(set_alpha_to_one=False)
    run = sampler(x, trajectory=True)
    mean, last = model.denoise(run.trajectory[-2], 1e-3), run.trajectory[-2]
    alpha, sigma = (float(c) for c in model.schedule(1e-3))
    assert_close(ends, alpha * mean + sigma * ((last - alpha * mean) / sigma), atol=1e-5)
    assert float((ends - run.images).abs().max()) > 1e-3
    # Linspace: steps go T // steps levels down, between timesteps that are further apart.
    theirs, odd, sampler = made(timestep_spacing="linspace")
    assert {1000 // 12} != set((-theirs.timesteps.diff()).tolist())
    assert float((odd - sampler(x).images).abs().max()) > 1e-3
    # Clipping: what is guessed beyond [-1, 1] is cut off.
    with torch.no_grad():
        network.conv_out.weight.mul_(20)
    network.save_pretrained(tmp_path)
    model = open_model(f"diffusers:{tmp_path}", images())
    _, clipped, sampler = made(timestep_spacing="trailing", clip_sample=True)
    assert float(clipped.abs().max()) <= 1 < float(sampler(x).images.abs().max())


@pytest.mark.parametrize("classes", [{"num_class_embeds": 4}, {"class_embed_type": "timestep", "num_class_embeds": 4}], ids=str)
def test_classes_are_passed_on(tmp_path, classes):
    network, scheduler = unet(tmp_path, **classes)
    x, label = noisy(), torch.tensor([0, 3, 1])
    model = open_model(f"diffusers:{tmp_path}", images())
    assert_close(model.denoise(x, 0.3, label), by_hand(network, scheduler, x, 299, class_labels=label), rtol=1e-6)
    fixed = open_model(f"diffusers:{tmp_path},label=3", images())
    assert torch.equal(fixed.denoise(x, 0.3), model.denoise(x, 0.3, 3))
    with pytest.raises(InputError) as error:
        model.denoise(x, 0.3)
    refused(error, "no label", "0 to 3")
    with pytest.raises(InputError, match="0 to 3"):
        model.denoise(x, 0.3, 4)


def test_dit_with_a_learned_variance(tmp_path):
    torch.manual_seed(0)
    network = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=1, out_channels=2, num_layers=1, sample_size=8, patch_size=2,
        num_embeds_ada_norm=5, norm_num_groups=1,
    ).eval()  # fmt: skip
    scheduler = diffusers.DDIMScheduler()
    network.save_pretrained(tmp_path / "transformer")
    scheduler.save_pretrained(tmp_path / "scheduler")
    x, label = noisy(), torch.tensor([0, 5, 1])  # 5: no class
    with torch.no_grad():
        out = network(x, timestep=torch.full((3,), 299), class_labels=label).sample[:, :1]
    a = float(scheduler.alphas_cumprod[299])
    assert_close(open_model(f"diffusers:{tmp_path}", images()).denoise(x, 0.3, label), (x - (1 - a) ** 0.5 * out) / a**0.5, rtol=2e-6)


def test_between_levels_snapping_is_the_level_itself(tmp_path):
    network, scheduler = unet(tmp_path, "sample")
    x = noisy()
    snapped = open_model(f"diffusers:{tmp_path},between=snap", images())
    smooth = open_model(f"diffusers:{tmp_path}", images())
    assert_close(snapped.denoise(x, 0.3003), by_hand(network, scheduler, x, 299), rtol=1e-6)
    lower, upper = (by_hand(network, scheduler, x, i) for i in (299, 300))
    # Its fastest sine turns by one radian a level: halfway is within a quarter of the step from the mean of both ends.
    assert_close(smooth.denoise(x, 0.3005), (lower + upper) / 2, atol=0.25 * float((lower - upper).abs().max()))
    assert 0 < between(smooth, x, 0.3) < 0.05
    assert (smooth.snap, snapped.snap) == (False, True)


def test_a_learned_embedding_can_only_be_asked_for_whole_steps(tmp_path):
    network, scheduler = unet(tmp_path, time_embedding_type="learned", num_train_timesteps=1000)
    x = noisy()
    model = open_model(f"diffusers:{tmp_path}", images())
    assert_close(model.denoise(x, 0.3), by_hand(network, scheduler, x, 299), rtol=1e-6)


def test_it_is_a_network_like_any_other(tmp_path):
    unet(tmp_path, "sample")
    model = open_model(f"diffusers:{tmp_path}", images())
    assert is_network(model)
    report = compare({"mine": model}, images(), samples=4, steps=3, levels=2, draws=4)
    assert set(report["pairs"]) == {"ideal"}


# ------------------------------------------------------------------------------------------------------ bad input


def changed(path, file, **entries):
    content = json.loads((path / file).read_text())
    (path / file).write_text(json.dumps({**content, **entries}))
    return path


def made(path, **options):
    unet(path, **options)
    return path


def pickled(path):
    torch.save(load_file(path / "diffusion_pytorch_model.safetensors"), path / "diffusion_pytorch_model.bin")
    os.remove(path / "diffusion_pytorch_model.safetensors")
    return path


def with_weights(path, change):
    file = path / "diffusion_pytorch_model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    return path


def without(path, file):
    os.remove(path / file)
    return path


NAN = lambda w: {k: torch.full_like(x, torch.nan) if k == "conv_out.bias" else x for k, x in w.items()}  # noqa: E731
BAD = {
    "no folder": (lambda p: p / "none", ("none", "save_pretrained")),
    "empty folder": (lambda p: p, ("config.json",)),
    "no scheduler": (lambda p: without(made(p), "scheduler_config.json"), ("scheduler_config.json",)),
    "no weights": (lambda p: without(made(p), "diffusion_pytorch_model.safetensors"), ("without weights",)),
    "a scheduler we don't know": (
        lambda p: made(p, scheduler=diffusers.FlowMatchEulerDiscreteScheduler()), ("FlowMatchEulerDiscreteScheduler", "DDPMScheduler")
    ),
    "an unknown prediction": (lambda p: changed(made(p), "scheduler_config.json", prediction_type="flow"), ("'flow'", "'v_prediction'")),
    "unknown betas": (lambda p: changed(made(p), "scheduler_config.json", beta_schedule="cubic"), ("cubic",)),
    "another kind of network": (lambda p: changed(made(p), "config.json", _class_name="UNet2DConditionModel"), ("UNet2DConditionModel",)),
    "another size": (lambda p: made(p, sample_size=16), ("16x16", "8x8", "size=16")),
    "other channels": (lambda p: made(p, in_channels=3, out_channels=3), ("3 channels", "1, those of the data")),
    "half precision": (lambda p: with_weights(made(p), lambda w: {k: x.half() for k, x in w.items()}), ("F16", "float32", ".float()")),
    "a weight missing": (lambda p: with_weights(made(p), lambda w: {k: x for k, x in w.items() if k != "conv_in.bias"}), ("conv_in.bias",)),
    "a weight too many": (lambda p: with_weights(made(p), lambda w: {**w, "more": torch.zeros(1)}), ("more",)),
    "another shape": (lambda p: with_weights(made(p), lambda w: {**w, "conv_in.bias": torch.zeros(3)}), ("conv_in.bias",)),
    "damaged weights": (lambda p: (made(p) / "diffusion_pytorch_model.safetensors").write_bytes(b"x" * 99) and p, ("safetensors",)),
    "damaged config": (lambda p: (made(p) / "config.json").write_text("{") and p, ("config.json",)),
    "NaN": (lambda p: with_weights(made(p), NAN), ("NaN",)),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_one_line(case, tmp_path):
    make, words = BAD[case]
    path = make(tmp_path)
    with pytest.raises(InputError) as error:
        open_model(f"diffusers:{path}", images())
    refused(error, *words)


@pytest.mark.parametrize("option", ["between=linear", "labels=3", "label=x"])
def test_unknown_options(option, tmp_path):
    unet(tmp_path)
    with pytest.raises(InputError) as error:
        open_model(f"diffusers:{tmp_path},{option}", images())
    refused(error, option.split("=")[0])


def test_pickled_weights_are_refused_with_the_line_that_converts_them(tmp_path):
    network, scheduler = unet(tmp_path)
    pickled(tmp_path)
    with pytest.raises(InputError) as error:
        open_model(f"diffusers:{tmp_path}", images())
    refused(error, "pickled weights", "convert them: python -c")
    line = str(error.value).split('python -c "')[1].rsplit('"', 1)[0]
    exec(line, {})  # what the message says, done
    x = noisy()
    assert_close(open_model(f"diffusers:{tmp_path}", images()).denoise(x, 0.3), by_hand(network, scheduler, x, 299), rtol=1e-6)
