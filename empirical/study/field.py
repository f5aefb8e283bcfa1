"""All analytic denoisers against trained networks: how well each predicts their samples, how long it takes, and how much memory.

Every machine at the patch size of the data, not calibrated to a network; on three data sets, each with a ResNet, a UNet and a UNet with
attention. From the same initial noise, with the same steps. Machines know nothing of the network, and sample once for a data set.
Seconds are those of the processor, of all threads together; on a GPU, those that pass.
"""

import os
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from threading import Event, Thread

import torch
from rich.table import Table
from safetensors.torch import load_file
from torch import Tensor

from empirical.compare import sampled
from empirical.metrics import Median, pearson_r, r2_determination, r2_pearson
from empirical.models import open_model
from empirical.study.job import FORMAT, SAMPLES, Job
from empirical.train import Config
from theory.data import ImageSet, load
from theory.denoiser import Denoiser
from theory.metrics import Proportion, memorisation
from theory.results import read_json, versions, write_json, write_tensors

DATA = {"digits": "digits", "mnist5k": "mnist5k", "photos": "photos:count=2000,size=16"}
NETWORKS = {
    "resnet": {"model": "resnet", "layers": 3},
    "unet": {"model": "unet", "hidden": 32},
    "attention": {"model": "unet", "hidden": 32, "attention": True},
}
FIELD = {f"{data}-{network}": (data, network) for data in DATA for network in NETWORKS}
MACHINES = {
    "IS": "ideal", "ES": "equivariant", "LS": "local", "ELS": "equivariant_local", "ELS, mirrored": "equivariant_local:group=flip",
    "Gaussian": "gaussian", "linear, ES": "wiener:patch_size=whole", "linear, LS": "wiener:equivariant=false", "linear, ELS": "wiener",
    "mixture": "mixture", "PCA locality": "pca_local", "patch sets": "patch_set", "patch sets, flexible": "patch_set:sets=flexible",
    "smoothed": "smoothed", "nearest": "nearest",
}  # fmt: skip
PAUSE = 0.01  # seconds between two looks at the memory


def field(job: Job) -> dict:
    """Train the networks and hold every machine against each; returns the report."""
    rows, samples = {}, {}
    for name in job.models:
        which, network = FIELD[name]
        data = load(job.dataset or DATA[which])
        config = Config(
            dataset=job.dataset or DATA[which], target=job.target, rate=job.rate, steps=job.scale.steps,
            every=max(1, job.scale.steps // 10), batch=job.batch, samples=64, **NETWORKS[network],
        )  # fmt: skip
        checkpoint = job.trained(config, data, name)
        drawn = {"count": min(200, job.scale.samples), "steps": job.scale.sampling, "seed": 0, "device": str(job.device)}
        denoiser = checkpoint.denoiser()
        denoiser.module.to(job.device)
        told = {"data": data.fingerprint, "schedule": config.schedule, "drawn": drawn, "versions": versions()}
        found = {}
        for model, spec in {"network": None, **MACHINES}.items():
            owner, origin = (name, {"network": checkpoint.origin()}) if spec is None else (which, {"machine": spec})
            part = job.out / "field" / owner / model.replace(", ", "-")
            make = (lambda d=denoiser: d) if spec is None else (lambda s=spec, x=data, d=denoiser: open_model(s, x, d.schedule, job.device))
            found[model], samples[f"{owner}.{model}"] = _drawn(part, {**told, **origin}, make, data, job)
            job.say(f"{name}, {model}: {found[model]['seconds']:.3g} s a sample")
        truth = samples[f"{name}.network"]
        pairs = {machine: _pair(truth, samples[f"{which}.{machine}"]) for machine in MACHINES}
        own = {"name": data.name, "fingerprint": data.fingerprint}
        rows[name] = {
            "data": own,
            "models": found,
            "pairs": pairs,
            "receptive_field": denoiser.receptive_field,
            "origin": checkpoint.origin(),
        }
    write_tensors(job.out / SAMPLES, samples)
    return {
        "format": FORMAT, "study": "field", "scale": vars(job.scale), "machines": MACHINES, "versions": versions(), "rows": rows,
        "data": {name: row["data"] for name, row in rows.items()}, "threads": torch.get_num_threads(),
    }  # fmt: skip


def _pair(truth: Tensor, other: Tensor) -> dict:
    """Medians over samples, with intervals."""
    return {f.__name__: Median.of(f(truth, other))._asdict() for f in (r2_pearson, pearson_r, r2_determination)}


def _drawn(part: Path, identity: dict, make: Callable[[], Denoiser], data: ImageSet, job: Job) -> tuple[dict, Tensor]:
    """Samples of a model and what they cost, or what an earlier run found."""
    told, kept = part.with_suffix(".json"), part.with_suffix(".safetensors")
    if told.is_file() and kept.is_file() and (done := read_json(told)).get("identity") == identity:
        return done["found"], load_file(kept)["samples"]
    drawn = identity["drawn"]
    now = time.process_time if job.device.type == "cpu" else time.perf_counter  # of this process alone, whatever else runs
    with _Memory(job.device) as memory:
        times, model = [now()], make()
        for count in (1, 1, drawn["count"]):  # the first finds what is found once, at every noise level
            samples = sampled(model, data, count, drawn["steps"], drawn["seed"], device=job.device)
            times.append(now())
    first, second, all_of_them = (b - a for a, b in pairwise(times))
    copies = Proportion.of(memorisation(samples, data).memorised)._asdict()
    found = {"seconds": all_of_them / drawn["count"], "setup": first - second, "memory": memory.grown, "memorised": copies}
    part.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(kept, {"samples": samples})
    write_json(told, {"identity": identity, "found": found})  # written last: its presence means both are whole
    return found, samples


class _Memory:
    """Bytes by which the memory of this process (of a GPU: what is allocated there) grew at most; None where that can't be seen."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.grown, self._ended = device, None, Event()

    def __enter__(self) -> "_Memory":
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self._start, self._watch = self._now(), Thread(target=self._look, daemon=True)
        if self._start is not None:
            self.grown = 0
            self._watch.start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        if self._start is not None:
            self._watch.join()

    def _look(self) -> None:
        while not self._ended.wait(PAUSE):
            self.grown = max(self.grown, self._now() - self._start)

    def _now(self) -> int | None:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if sys.platform != "linux":
            return None
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def field_tables(report: dict) -> list[Table]:
    """A table for each network; nothing is left out because it loses."""
    tables = []
    for name, row in report["rows"].items():
        out = Table(title=f"{name} ({row['data']['name']}): median over samples (95% interval)", title_justify="left")
        for column in ("machine", "r2_pearson", "r2_determination", "memorised", "seconds a sample", "once, s", "memory, MB"):
            out.add_column(column, justify="left" if column == "machine" else "right")
        for machine, found in row["models"].items():
            pair = row["pairs"].get(machine)
            shown = [_interval(pair[key]) if pair else "" for key in ("r2_pearson", "r2_determination")]
            memory = "" if found["memory"] is None else f"{found['memory'] / 2**20:.0f}"
            copies = f"{100 * found['memorised']['value']:.0f}%"
            out.add_row(machine, *shown, copies, f"{found['seconds']:.3g}", f"{found['setup']:.2g}", memory)
        tables.append(out)
    return tables


def field_lines(report: dict, data: str) -> list[str]:
    """The table of one data set as in the documentation: every machine a line, every network a column."""
    names = [name for name in report["rows"] if name.startswith(f"{data}-")]
    head = ["machine", *(f"{name.removeprefix(f'{data}-')}, r2" for name in names), "copies", "s a sample", "once, s", "memory, MB"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for machine in report["machines"]:
        cells = [_interval(report["rows"][name]["pairs"][machine]["r2_pearson"]) for name in names]
        found = report["rows"][names[0]]["models"][machine]
        memory = "" if found["memory"] is None else f"{found['memory'] / 2**20:.0f}"
        cost = f"{100 * found['memorised']['value']:.0f}%", f"{found['seconds']:.2g}", f"{found['setup']:.2g}", memory
        lines.append(f"| {' | '.join([machine, *cells, *cost])} |")
    return lines


def _interval(x: dict) -> str:
    return f"{x['value']:.3f} [{x['low']:.3f}, {x['high']:.3f}]"
