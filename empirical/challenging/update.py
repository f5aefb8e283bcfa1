"""Challenges written into the certificates of a solution."""

from collections.abc import Mapping

from theory.stationarity import SolvedScore
from theory.stationarity.certificate import Certificate, Challenge

AGREE = 1e-3  # relative difference from a certificate's loss, on its own images, that rounding may make


def challenged(solution: SolvedScore, report: dict, names: Mapping[str, str]) -> list[dict]:
    """The certificates of a solution with the members of a report as challengers, at the solved levels that it has.

    Args:
        solution: What was challenged.
        report: Of `challenge`.
        names: What certificates call each challenger.

    Returns:
        A certificate for each level, as JSON values; those of other levels are as they were.
    """
    certificates = list(solution.certificates)
    for level in report["levels"]:
        if level["knot"] is None:
            continue
        certificate = Certificate.of(certificates[level["knot"]])
        for name, told in report["challengers"].items():
            if not told["outside"]:
                m = level["challengers"][name]
                certificate = certificate.challenged(Challenge(names[name], told["independent"], m["loss"], m["below"], m["below_stderr"]))
        certificates[level["knot"]] = certificate.asdict()
    return certificates


def changed(report: dict) -> str:
    """Where the solution's loss is not that of its certificate on the same images, in words; empty if nowhere."""
    for x in report["levels"]:
        c = x["certified"]
        if c is not None and abs(x["loss"] - c) > AGREE * c + x["negligible"]:
            return f"the solution has loss {x['loss']:.4f} at sigma/alpha {x['ratio']:.3f}, and {c:.4f} in its certificate"
    return ""
