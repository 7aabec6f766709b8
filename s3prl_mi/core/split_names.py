"""Names of splits: `dev-other`, or a part of it, `dev-other@1/2`."""

from __future__ import annotations

from .errors import MIError


def split_part(name: str) -> tuple[str, int, int]:
    """The split, the part and the number of parts that a name of a split stands for.

    Raises:
        MIError: an `@` that is not followed by part/parts.

    Example:
        >>> split_part("dev-other"), split_part("dev-other@2/3")
        (('dev-other', 1, 1), ('dev-other', 2, 3))
    """
    split, at, part = name.partition("@")
    if not at:
        return split, 1, 1
    number, slash, count = part.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise MIError(f"split {name!r}: after @ expected part/parts, such as {split}@1/2; found {part!r}.")
    return split, int(number), int(count)


def overlap(one: str, other: str) -> bool:
    """Whether two names of splits share speech.

    Example:
        >>> overlap("dev@1/2", "dev@2/2"), overlap("dev@1/2", "dev")
        (False, True)
    """
    a, b = split_part(one), split_part(other)
    return a[0] == b[0] and (a[2] != b[2] or a[1] == b[1])
