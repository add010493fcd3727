"""What is used of transformers, in one place, so that a version that lacks any of it is named once and clearly."""

from __future__ import annotations

from halfbyte.errors import IntegrationError

try:
    import transformers
except ImportError as error:
    raise IntegrationError("transformers is not installed: pip install halfbyte[transformers]") from error

try:
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        DynamicCache,
        GenerationConfig,
        GenerationMixin,
        PreTrainedModel,
        StoppingCriteria,
        StoppingCriteriaList,
    )
    from transformers import AwqConfig as TransformersAwqConfig
    from transformers.modeling_outputs import CausalLMOutputWithPast
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING
    from transformers.quantizers.base import HfQuantizer
except ImportError as error:
    raise IntegrationError(
        f"transformers {transformers.__version__} differs from what halfbyte plugs into ({error}); "
        "5.23 is the version that it was tested with: pip install transformers==5.23.0"
    ) from error

__all__ = [
    "AUTO_QUANTIZER_MAPPING",
    "AutoConfig",
    "AutoModelForCausalLM",
    "CausalLMOutputWithPast",
    "DynamicCache",
    "GenerationConfig",
    "GenerationMixin",
    "HfQuantizer",
    "PreTrainedModel",
    "StoppingCriteria",
    "StoppingCriteriaList",
    "TransformersAwqConfig",
]
