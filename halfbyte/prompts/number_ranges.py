"""Which digits a number between two bounds may have, so that a grammar allows no other.

A bound cannot be said in a grammar but by its digits: 7 to 23 is [7-9], 1[0-9] or 2[0-3].
"""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

from halfbyte.errors import PromptError
from halfbyte.prompts.bounded_schema import LARGEST

Digits = list[str]  # what stands in a row: "-", "." or one digit, as "3" or as "[3-7]"
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
MOST_DECIMALS = 6


def number_forms(kind: str, schema: dict[str, Any]) -> list[Digits]:
    """Every form of an "integer" or "number" within a schema's bounds. Raises PromptError if there is none."""
    forms = _between(schema, 0)
    if kind == "number":
        forms += _between(schema, _decimals(schema))
    if not forms:
        bounds = ", ".join(f"{name} {schema[name]}" for name in BOUNDS if name in schema)
        raise PromptError(f"there is no {kind} with {bounds}")
    return forms


def _decimals(schema: dict[str, Any]) -> int:
    """Two more places than the bounds have, so that there is something between them."""
    places = (-int(Decimal(str(schema[name])).as_tuple().exponent) for name in BOUNDS if name in schema)
    return max(1, min(MOST_DECIMALS, 2 + max(0, *places, 0)))


def _between(schema: dict[str, Any], decimals: int) -> list[Digits]:
    """Numbers with so many places behind the point."""
    scale = 10**decimals
    low, high = -LARGEST * scale, LARGEST * scale
    for name, open_end in (("minimum", 0), ("exclusiveMinimum", 1)):
        if name in schema:
            bound = Decimal(str(schema[name])) * scale
            whole = int(bound.to_integral_value(ROUND_CEILING))
            low = max(low, whole + (open_end if whole == bound else 0))
    for name, open_end in (("maximum", 0), ("exclusiveMaximum", 1)):
        if name in schema:
            bound = Decimal(str(schema[name])) * scale
            whole = int(bound.to_integral_value(ROUND_FLOOR))
            high = min(high, whole - (open_end if whole == bound else 0))
    forms = [["-", *digits] for digits in _naturals(max(1, -high), -low, decimals)]
    return forms + _naturals(max(0, low), high, decimals)


def _naturals(low: int, high: int, decimals: int) -> list[Digits]:
    """From low to high, by length; the last `decimals` digits stand behind a point."""
    forms: list[Digits] = []
    shortest = decimals + 1
    for length in range(shortest, len(str(max(high, 0))) + 1 if high >= 10**shortest else shortest + 1):
        first = max(low, 0 if length == shortest else 10 ** (length - 1))
        last = min(high, 10**length - 1)
        if first <= last:
            forms += _same_length(str(first).zfill(length), str(last).zfill(length))
    return [[*form[:-decimals], ".", *form[-decimals:]] if decimals else form for form in forms]


def _same_length(low: str, high: str) -> list[Digits]:
    if not low:
        return [[]]
    if low[0] == high[0]:
        return [[low[0], *rest] for rest in _same_length(low[1:], high[1:])]
    forms: list[Digits] = []
    first, last, tail = int(low[0]), int(high[0]), len(low) - 1
    if low[1:].strip("0"):
        forms += [[low[0], *rest] for rest in _same_length(low[1:], "9" * tail)]
        first += 1
    if high[1:].strip("9"):
        forms += [[high[0], *rest] for rest in _same_length("0" * tail, high[1:])]
        last -= 1
    if first <= last:
        forms.append([f"[{first}-{last}]", *["[0-9]"] * tail])
    return forms
