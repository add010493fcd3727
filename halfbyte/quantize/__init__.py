"""From float weights to a 4-bit AWQ repository."""

from halfbyte.quantize.driver import Progress, quantize
from halfbyte.quantize.options import QuantizeOptions
from halfbyte.quantize.plan import Plan
from halfbyte.quantize.report import LayerReport, Report

__all__ = ["LayerReport", "Plan", "Progress", "QuantizeOptions", "Report", "quantize"]
