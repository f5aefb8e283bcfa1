"""Time for several parts: each has its share of what is left, so that time one does not need goes to those after it."""

import time


class Budget:
    """A number of minutes, from now on.

    Args:
        minutes: All there is.
        shares: Part to its share of the time, in any unit, in the order in which the parts run.
    """

    def __init__(self, minutes: float, shares: dict[str, float]) -> None:
        self._end = time.monotonic() + 60 * minutes
        self._waiting = dict(shares)

    def take(self, part: str) -> float:
        """Seconds that this part may take; at most once for each."""
        left = max(0.0, self._end - time.monotonic())
        whole = sum(self._waiting.values())
        return left * self._waiting.pop(part) / whole
