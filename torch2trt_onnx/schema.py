"""Whether plain data, as read from JSON, has the form that it must have."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

SHA256 = re.compile("[0-9a-f]{64}")
BINDING: dict[str, Any] = {
    "name": str,
    "mode": str,
    "dtype": str,
    "dims": [int],
    "format": str,
    "profiles": [[[int]]],
    "is_shape": bool,
}
"""An input or output; see `backends.layers.Binding`."""


@dataclass(frozen=True)
class Each:
    """A mapping of any size.

    Args:
        form: of each value.
        key: what each key must match.
    """

    form: Any
    key: str = ".*"


def wrong(value: Any, form: Any, where: str) -> str:
    """The first place where a value has not its form, in words; "" where there is none.

    Args:
        value: the data.
        form: a type; a pattern, of a string; `[form]`, a list of such; a dict, whose keys must be there; `Each`; or `(None, form)`.
        where: what to call the value.
    """
    if isinstance(form, tuple):
        return "" if value is None else wrong(value, form[1], where)
    if isinstance(form, re.Pattern):
        return "" if isinstance(value, str) and form.fullmatch(value) else f"{where} is {value!r:.60}"
    if isinstance(form, type):
        right = isinstance(value, form) and (form is not int or not isinstance(value, bool))
        return "" if right else f"{where} is {value!r:.60}, not {form.__name__}"
    if not isinstance(value, list if isinstance(form, list) else dict):
        return f"{where} is {value!r:.60}"
    items: Any = value
    pairs: list[tuple[Any, Any, str]]
    if isinstance(form, list):
        pairs = [(one, form[0], f"{where}, item {at}") for at, one in enumerate(items)]
    elif isinstance(form, Each):
        odd = next((key for key in items if not re.fullmatch(form.key, key, re.DOTALL | re.ASCII)), None)
        if odd is not None:
            return f"{where} has the name {odd!r}"
        pairs = [(one, form.form, f"{where}, {key!r}") for key, one in items.items()]
    else:
        missing = next((key for key in form if key not in items), None)
        if missing is not None:
            return f"{where} has no {missing!r}"
        pairs = [(items[key], inner, f"{where}, {key!r}") for key, inner in form.items()]
    return next((text for one, inner, place in pairs if (text := wrong(one, inner, place))), "")
