"""How far the solved attention scores have converged: loss and sampled consistency with ever more features and iterations.

    python -m benchmarks.attention_convergence --dataset toy:layout=strip --families identity full --out FILE.json

For each family, with a quarter, a half and all of its features and iterations: the loss on fresh images at
every level and the consistency of samples from shared noise. Prints a table and writes JSON.
"""

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

from theory.data import load
from theory.metrics import Proportion
from theory.noise import CosineSchedule
from theory.plain import make_printable
from theory.results import versions, write_json
from theory.sampling import DDIM, initial_noise
from theory.stationarity import Options, Plan


def main() -> None:
    make_printable()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="toy")
    parser.add_argument("--families", nargs="+", default=["identity", "full"])
    parser.add_argument("--levels", type=int, default=8)
    parser.add_argument("--images", type=int, default=Options.images)
    parser.add_argument("--features", type=int, default=Options.features)
    parser.add_argument("--embedding", type=int, default=Options.embedding)
    parser.add_argument("--iterations", type=int, default=Options.iterations)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--ratios", type=float, nargs="+", help="solve at these sigma/alpha alone, and sample nothing")
    parser.add_argument("--out", type=Path, help="JSON to write; solutions go beside it")
    a = parser.parse_args()
    data, schedule = load(a.dataset), CosineSchedule()
    options = Options(images=a.images, features=a.features, embedding=a.embedding, iterations=a.iterations)
    times = tuple(float(schedule.time(r)) for r in a.ratios) if a.ratios else tuple((i + 0.5) / a.levels for i in range(a.levels))
    plan = Plan(data, schedule, tuple(a.families), times, data.patch_size, options=options)
    found, certificates, start = {}, {}, time.perf_counter()
    for number, solved in plan.levels(found.get):
        found[number] = {name: s.stages for name, s in solved.items()}
        certificates[number] = {name: s.certificate.asdict() for name, s in solved.items()}
        ratio = schedule(times[number])[1] / schedule(times[number])[0]
        for name, s in solved.items():
            c = s.certificate
            stages = ", ".join(f"{x:.4f}" for x in c.enriched)
            print(
                f"sigma/alpha {float(ratio):.3f} {name:14} ELS {c.els_loss:.4f}, stages {stages}, gain {c.gain:.4f} ± {c.gain_stderr:.4f} "
                f"({time.perf_counter() - start:.0f} s) {'; '.join(c.failures)}",
                flush=True,
            )
    levels = range(len(times))
    result = {"dataset": a.dataset, "options": asdict(options), "times": times, "versions": versions(), "families": {}}
    for family in plan.families:
        told = [certificates[i][family.name] for i in levels]
        shares = []
        for stage in range(0 if a.ratios else 3):
            solution = plan.solution(family.name, [found[i] for i in levels], told, stage)
            if a.out:
                solution.save(a.out.with_suffix("") / f"{family.name}-{stage + 1}")
            noise = initial_noise(schedule, (a.samples, *data.images.shape[1:]), 0)
            samples = DDIM(solution, 50)(noise).images
            share = Proportion.of(data.rule.consistent(samples))
            valid = float((data.rule.decode(samples) >= 0).all(1).double().mean())
            shares.append({"consistency": share.value, "low": share.low, "high": share.high, "valid": valid})
            print(
                f"{family.name:14} stage {stage + 1}: {100 * share.value:.1f}% [{100 * share.low:.1f}, {100 * share.high:.1f}] consistent, "
                f"{100 * valid:.1f}% valid",
                flush=True,
            )
        result["families"][family.name] = {"certificates": told, "samples": shares}
    if a.out:
        write_json(a.out, json.loads(json.dumps(result)))


if __name__ == "__main__":
    main()
