"""The process that measures cases one after another: ``python -m benchmarks.gpu.worker JOB``, for `benchmarks.gpu.scores` alone.

``JOB`` is a JSON file: ``device``, ``cases``, the file ``out`` that gets a line for each, ``until`` when (seconds of the epoch) a case
may be begun, and the seconds that one may take, ``patience``. A fault on a card can leave it unusable for the process; then the process
ends with that case, and is started again with the next one.
"""

import faulthandler
import json
import sys
import time
from pathlib import Path

import torch

from benchmarks.gpu.case import Case
from benchmarks.gpu.measure import failure, forget, measure

TOLD = 3  # no other end has this exit code


def main(job: dict) -> int:
    """Measure; the exit code is `TOLD` where the last line is of a case that left the device unusable."""
    device = torch.device(job["device"])
    with Path(job["out"]).open("a") as out:
        for case in (Case(**c) for c in job["cases"]):
            if time.time() > job["until"]:
                return 0
            faulthandler.dump_traceback_later(job["patience"], exit=True)  # also out of a kernel that hangs
            found, code = _attempt(case, device)
            faulthandler.cancel_dump_traceback_later()
            print(json.dumps(found), file=out, flush=True)
            if code:
                return code
            forget(device)
    return 0


def _attempt(case: Case, device: torch.device) -> tuple[dict, int]:
    try:
        return measure(case, device), 0
    except Exception as error:
        return failure(case, error), 0 if _usable(device) else TOLD


def _usable(device: torch.device) -> bool:
    """Whether the device still computes in this process."""
    try:
        return float(torch.ones(2, device=device).sum()) == 2
    except Exception:
        return False


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    torch.set_float32_matmul_precision("highest")  # float32 is float32, for the peers too
    sys.exit(main(json.loads(Path(sys.argv[1]).read_text())))
