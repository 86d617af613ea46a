"""The error that a person can mend."""

from collections.abc import Iterable

MOST = 8  # faults that one message lists


class UserError(ValueError):
    """What is wrong, where, and what to do. Scripts print it in one line; all errors of this package derive from it."""


def listing(faults: Iterable[object]) -> str:
    """The first few faults, and how many more there are."""
    faults = list(map(str, faults))
    more = f" and {len(faults) - MOST:,} more" if len(faults) > MOST else ""
    return ", ".join(faults[:MOST]) + more
