"""From any model that can be read to any format that can be written."""

from halfbyte.convert.registry import FORMATS, convert
from halfbyte.convert.request import ConvertOptions, ConvertReport

__all__ = ["FORMATS", "ConvertOptions", "ConvertReport", "convert"]
