"""From float weights to a 4-bit AWQ repository."""

import sys
from types import ModuleType
from typing import Any

from halfbyte.quantize.driver import Progress, quantize
from halfbyte.quantize.options import QuantizeOptions
from halfbyte.quantize.plan import Plan
from halfbyte.quantize.report import LayerReport, Report

__all__ = ["LayerReport", "Plan", "Progress", "QuantizeOptions", "Report", "quantize"]


class _CallableRoom(ModuleType):
    """`halfbyte.quantize` is a public function, but Python binds that name to this package once any of it is imported.

    So the package can be called, and means the same either way.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Report:
        return quantize(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableRoom
