"""The one exception a user's input can raise, and the one warning: what was given, what was expected, what to do."""


class InputError(ValueError):
    """Bad input, told in one line.

    Raised at the public boundary (data, denoisers, samplers, command line) and printed by the
    command line without a traceback, with exit code 2.

    Args:
        given: What was received, e.g. ``"patch size 4"``.
        expected: What would have been accepted, e.g. ``"an odd positive number of pixels"``.
        remedy: What the user can do about it, as a short imperative sentence.
    """

    def __init__(self, given: str, expected: str, remedy: str) -> None:
        self.given, self.expected, self.remedy = given, expected, remedy
        super().__init__(" ".join(f"{given}: expected {expected}; {remedy}.".split()))


class InputWarning(UserWarning):
    """Input that is taken as it is, though it may not be meant so: what was seen, and what to do, told in one line.

    The command line prints it without the line of code it comes from.
    """


def choices(names) -> str:
    """Names as they appear in an error: ``'a', 'b' or 'c'``."""
    quoted = [repr(str(name)) for name in names]
    return quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + " or " + quoted[-1]
