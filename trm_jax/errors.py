"""The error that a person can mend."""

from collections.abc import Iterable, Mapping
from typing import Any

MOST = 8  # faults that one message lists


class UserError(ValueError):
    """What is wrong, where, and what to do. Scripts print it in one line; all errors of this package derive from it."""


def listing(faults: Iterable[object]) -> str:
    """The first few faults, and how many more there are."""
    faults = list(map(str, faults))
    more = f" and {len(faults) - MOST:,} more" if len(faults) > MOST else ""
    return ", ".join(faults[:MOST]) + more


def differences(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What of `here` is other than `there`, by the dotted names of the innermost fields."""
    found = []
    for name in here:
        old, new = there.get(name), here[name]
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{prefix}{name}.")
        elif old != new:
            found.append(f"{prefix}{name} {old!r} there, {new!r} now")
    return found
