"""ResNet and UNet with zero and circular padding, against calibrated ELS, LS and IS, as in table 2 of arXiv 2412.20292."""

from rich.table import Table
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from empirical.calibrate import calibrate, default_sizes
from empirical.checkpoint import Checkpoint
from empirical.compare import NULL, Comparison
from empirical.metrics import sensitivity
from empirical.study.job import FORMAT, FULL, SAMPLES, Job
from empirical.train import Config
from theory.calibrated import FORMAT as SCHEDULE_FORMAT
from theory.calibrated import save_patch_schedule
from theory.data import ImageSet, load
from theory.errors import InputError
from theory.machines import EquivariantLocal, Ideal, Local
from theory.results import prepare_file, read_json, versions, write_json, write_tensors

DIGITS = {
    "resnet-zeros": {"model": "resnet", "padding": "zeros", "layers": 3},
    "resnet-circular": {"model": "resnet", "padding": "circular", "layers": 3},
    "unet-zeros": {"model": "unet", "padding": "zeros", "hidden": 32},
    "unet-circular": {"model": "unet", "padding": "circular", "hidden": 32},
}


def digits(job: Job) -> dict:
    """Train, calibrate and compare ResNet and UNet; returns the report."""
    data = load(job.dataset)
    for name in job.models:
        prepare_file(job.out / f"{name}.json", SCHEDULE_FORMAT)
    rows, curves, samples = {}, {}, {}
    for name in job.models:
        config = Config(
            dataset=job.dataset,
            target=job.target,
            rate=job.rate,
            steps=job.scale.steps,
            every=max(1, job.scale.steps // 10),
            batch=job.batch,
            samples=64,
            **DIGITS[name],
        )
        checkpoint = job.trained(config, data, name)
        rows[name], drawn = _held(job, name, checkpoint, data)
        samples |= {f"{name}.{model}": x for model, x in drawn.items()}
        curves[name] = checkpoint.history
        job.say(f"compared {name}: patch sizes {rows[name]['patch_sizes']}")
    write_tensors(job.out / SAMPLES, samples)
    return {
        "format": FORMAT, "study": "digits", "scale": vars(job.scale), "data": {"name": data.name, "fingerprint": data.fingerprint},
        "versions": versions(), "rows": rows, "curves": curves,
    }  # fmt: skip


def _held(job: Job, name: str, checkpoint: Checkpoint, data: ImageSet) -> tuple[dict, dict[str, Tensor]]:
    """A network held against its calibrated machines, or what an earlier run found: its row, and samples of all models."""
    full = job.scale.budget >= FULL
    effort = {"levels": 10, "draws": 32} if full else {"levels": 3, "draws": 4}
    drawn = {"samples": 200 if full else 20, "steps": 20 if full else 5, "levels": effort["levels"], "draws": job.scale.draws // 20}
    identity = {"network": checkpoint.origin(), "data": data.fingerprint, "effort": effort, "drawn": drawn, "versions": versions()}
    part, tensors = job.out / "compared" / f"{name}.json", job.out / "compared" / f"{name}.safetensors"
    if part.is_file() and (done := read_json(part)).get("identity") == identity:
        try:
            return done["row"], load_file(tensors)
        except (OSError, SafetensorError) as error:
            raise InputError(f"file {tensors} ({type(error).__name__})", "whole", f"remove {part} and repeat the command") from error
    network, border = checkpoint.denoiser(), DIGITS[name]["padding"]
    schedule, detail = calibrate(network, data, default_sizes(network, data, border), border=border, progress=job.progress, **effort)
    save_patch_schedule(job.out / f"{name}.json", schedule, {"network": name, **detail})
    models = {
        name: network,
        "els": EquivariantLocal(data, network.schedule, patch_size=schedule, border=border),
        "ls": Local(data, network.schedule, patch_size=schedule, border=border),
        NULL: Ideal(data, network.schedule),
    }
    comparison = Comparison(data, network.schedule, **drawn)
    seen = {model: comparison.seen(model, denoiser) for model, denoiser in models.items()}
    seeing = sensitivity(network, comparison.noisy[effort["levels"] // 2].x_t[:64], comparison.times[effort["levels"] // 2])
    row = {
        "patch_sizes": [size[0] for size in schedule.sizes],
        "receptive_field": network.receptive_field,
        "sensitivity": {"t": comparison.times[effort["levels"] // 2], "pixels": seeing.tolist()},
        "calibration": detail,
        "comparison": comparison.report(seen),
    }
    samples = {("network" if model == name else model): s.samples for model, s in seen.items()}
    part.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(tensors, samples)
    write_json(part, {"identity": identity, "row": row})  # written last: its presence means both are whole
    return row, samples


def digits_tables(report: dict) -> list[Table]:
    """Medians over samples, as in table 2 of arXiv 2412.20292."""
    out = Table(title=f"{report['data']['name']}: median r2_pearson over samples (95% interval)", title_justify="left")
    for column in ("network", "ELS", "LS", "IS", "pearson_r with ELS"):
        out.add_column(column, justify="left" if column == "network" else "right")
    for name, row in report["rows"].items():
        pairs = row["comparison"]["pairs"]
        show = [f"{x['value']:.3f} [{x['low']:.3f}, {x['high']:.3f}]" for x in (pairs[k]["r2_pearson"] for k in ("els", "ls", NULL))]
        out.add_row(name, *show, f"{pairs['els']['pearson_r']['value']:.3f}")
    return [out]
