"""What a user can get wrong. Each message names the file, layer, field or line, and the way out."""


class HalfbyteError(Exception):
    """Base of every error that halfbyte raises on purpose; a command prints it in one line and exits with 1."""


class SourceError(HalfbyteError):
    """A model source cannot be found, fetched or trusted (missing path, hash mismatch, escaping path)."""


class CheckpointError(HalfbyteError):
    """Weights on disk are damaged or do not fit their config (truncated, missing, extra, wrong shape, not finite)."""


class ConfigError(HalfbyteError):
    """A model's config asks for something that is not supported, or contradicts itself."""


class TokenizerError(HalfbyteError):
    """A repository has no usable tokenizer or chat template."""


class QuantizeError(HalfbyteError):
    """Quantization was asked for something that the model, the data or the format does not allow."""


class OutputError(HalfbyteError):
    """The output cannot be written (already there, disk too small)."""


class RequestError(HalfbyteError):
    """A generation request is not valid (sampling parameter out of range, prompt longer than the context)."""


class EvaluationError(HalfbyteError):
    """A measurement cannot be made of this text and these models (text too short, vocabularies differ)."""


class GenerationError(HalfbyteError):
    """The network gave something that no token can be chosen from (logits that are not finite)."""


class IntegrationError(HalfbyteError, ImportError):
    """Another program that halfbyte plugs into is absent, or not of a version that it knows."""
