"""What ``pytest -v`` printed, however far it came."""

import re
from dataclasses import dataclass

LINE = re.compile(r"^(\S+?\.py::.+?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b", re.MULTILINE)
BEGUN = re.compile(r"^(\S+?\.py::.+?) *$", re.MULTILINE)


@dataclass(frozen=True)
class Outcomes:
    """Tests by how they ended.

    Attributes:
        passed, skipped: How many.
        failed: Names of those that failed, or whose preparation did.
        under_way: The last one that was begun and has no outcome, or None.
    """

    passed: int
    skipped: int
    failed: list[str]
    under_way: str | None


def outcomes(output: str) -> Outcomes:
    """Read the lines ``FILE::NAME OUTCOME [PERCENT]`` of an output, which may end in the middle."""
    ended = LINE.findall(output)
    names = [name for name, outcome in ended if outcome in ("FAILED", "ERROR")]
    last = [name for name in BEGUN.findall(output) if not LINE.match(name)]
    under_way = last[-1] if last and last[-1] not in {name for name, _ in ended} else None
    return Outcomes(
        passed=sum(outcome in ("PASSED", "XPASS") for _, outcome in ended),
        skipped=sum(outcome in ("SKIPPED", "XFAIL") for _, outcome in ended),
        failed=list(dict.fromkeys(names)),
        under_way=under_way,
    )
