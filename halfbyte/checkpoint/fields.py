"""Reading values out of JSON that somebody else wrote: each must be of its type and in its range, or it is named."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from halfbyte.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

LARGEST = 2**31 - 1  # no size in a config is larger


def parse_json_object(data: bytes, where: str) -> dict[str, Any]:
    """Parse a JSON object. Raises ConfigError naming `where`, and the line of a syntax error."""
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{where}: not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: not UTF-8 text (byte {error.start})") from error
    except (RecursionError, ValueError) as error:  # nested too deeply, or an integer of thousands of digits
        raise ConfigError(f"{where}: cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: expected a JSON object, found {kind_of(value)}")
    return value


def kind_of(value: object) -> str:
    """The JSON name of a value's type, for messages."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


class Fields:
    """A JSON object whose values are taken out by type. `where` names file and source in every message."""

    def __init__(self, values: Mapping[str, Any], where: str, prefix: str = ""):
        self.values = values
        self.where = where
        self.prefix = prefix

    def fail(self, name: str, problem: str) -> ConfigError:
        """An error about one field."""
        return ConfigError(f"{self.where}: {self.prefix}{name} {problem}")

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self.values.get(name) is not None

    def integer(self, name: str, default: int | None = None, least: int = 1, most: int = LARGEST) -> int:
        """A whole number in `least`..`most`; without a default the field must be there."""
        value = self._value(name, default, "an integer")
        whole = isinstance(value, float) and math.isfinite(value) and value == int(value)
        if isinstance(value, bool) or not (isinstance(value, int) or whole):
            raise self.fail(name, f"must be an integer, found {_show(value)}")
        if not least <= value <= most:
            raise self.fail(name, f"must be between {least} and {most}, found {_show(value)}")
        return int(value)

    def number(self, name: str, default: float | None = None, above: float | None = 0.0) -> float:
        """A finite number greater than `above`."""
        value = self._value(name, default, "a number")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.fail(name, f"must be a number, found {_show(value)}")
        if abs(value) > 1e300 or not math.isfinite(value):
            raise self.fail(name, f"must be a finite number, found {_show(value)}")
        if above is not None and value <= above:
            raise self.fail(name, f"must be greater than {above:g}, found {_show(value)}")
        return float(value)

    def optional_number(self, name: str, above: float | None = 0.0) -> float | None:
        """A number, or None where the field is missing or null."""
        return self.number(name, above=above) if self.has(name) else None

    def boolean(self, name: str, default: bool) -> bool:
        """True or false; null counts as missing."""
        value = self._value(name, default, "true or false")
        if not isinstance(value, bool):
            raise self.fail(name, f"must be true or false, found {_show(value)}")
        return value

    def string(self, name: str, default: str | None = None) -> str:
        """A string."""
        value = self._value(name, default, "a string")
        if not isinstance(value, str):
            raise self.fail(name, f"must be a string, found {_show(value)}")
        return value

    def strings(self, name: str) -> list[str] | None:
        """A list of strings, or None where the field is missing or null."""
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.fail(name, f"must be a list of strings, found {_show(value)}")
        return list(value)

    def object(self, name: str) -> Fields | None:
        """A nested object, or None where the field is missing or null."""
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.fail(name, f"must be an object, found {_show(value)}")
        return Fields(value, self.where, f"{self.prefix}{name}.")

    def _value(self, name: str, default: Any, wanted: str) -> Any:
        value = self.values.get(name)
        if value is not None:
            return value
        if default is None:
            raise self.fail(name, f"is missing; it must be {wanted}")
        return default


def _show(value: object) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**18 else "a huge integer"
    return text if len(text) <= 60 else f"{text[:57]}..."
