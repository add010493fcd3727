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
        "5.24 is the version that it was tested with: pip install transformers==5.24.0"
    ) from error

# Of the keys and values that a pass is given and gives: renamed in transformers 5.24
CACHE_NAME = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"

__all__ = [
    "AUTO_QUANTIZER_MAPPING",
    "CACHE_NAME",
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
