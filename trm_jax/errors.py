"""UserError, from which all errors of this package derive, and functions that word its messages."""

from collections.abc import Iterable, Mapping
from typing import Any

MOST = 8  # a message lists at most so many faults


class UserError(ValueError):
    """An error that the user can correct. Scripts print its message in one line: what is wrong, where, and what to do."""


def listing(faults: Iterable[object]) -> str:
    """The first MOST faults in one text, and how many more there are."""
    faults = list(map(str, faults))
    more = f" and {len(faults) - MOST:,} more" if len(faults) > MOST else ""
    return ", ".join(faults[:MOST]) + more


def differences(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Describes the fields whose values in `here` differ from those in `there`, by dotted names such as `train.seed`."""
    found = []
    for name in here:
        old, new = there.get(name), here[name]
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{prefix}{name}.")
        elif old != new:
            found.append(f"{prefix}{name} {old!r} there, {new!r} now")
    return found
