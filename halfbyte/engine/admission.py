"""What a request must be before anything is computed for it."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any

from halfbyte.engine.sampling_params import SamplingParams
from halfbyte.errors import RequestError


def prompt_of(token_ids: list[int], params: SamplingParams) -> list[int]:
    """The prompt's tokens, cut as `params` say."""
    return token_ids if params.truncate_prompt_tokens is None else token_ids[-params.truncate_prompt_tokens :]


def check_params(params: Any) -> None:
    """Raise RequestError unless these are SamplingParams."""
    if isinstance(params, SamplingParams):
        return
    way_out = "SamplingParams(**them)" if isinstance(params, Mapping) else "SamplingParams(...)"
    raise RequestError(f"sampling parameters are {params!r}, a {type(params).__name__}; give {way_out}")


def check_service(priority: Any, adapter: Any) -> None:
    """Raise RequestError unless these say how a request is to be served."""
    if isinstance(priority, bool) or not isinstance(priority, Integral):
        raise RequestError(f"priority is {priority!r}; it must be a whole number, and lower ones are served first")
    if not isinstance(adapter, str | None):
        raise RequestError(f"adapter is {adapter!r}; it must be the name of one, or None")


def check_pooling(pooling: Any) -> None:
    """Raise RequestError unless this is a way to make one vector of all hidden states."""
    if pooling not in ("last", "mean"):
        raise RequestError(f"pooling is {pooling!r}; it must be 'last' or 'mean'")


def check_request(token_ids: list[int], params: SamplingParams, context: int, vocabulary: int, least: int = 1) -> None:
    """Raise RequestError unless this can be a prompt. least: tokens that there must be room for behind it."""
    count = len(token_ids)
    if count == 0:
        raise RequestError("the prompt is empty: give at least one token")
    if count > context - least:
        raise RequestError(
            f"the prompt has {count} tokens and the context is {context}, prompt and answer together: "
            f"at most {context - least} tokens of prompt leave room for an answer"
            if least
            else f"the prompt has {count} tokens and the context is {context}"
        )
    for place, token in enumerate(token_ids):
        if not 0 <= token < vocabulary:
            raise RequestError(f"token {place} of the prompt is {token}; ids are 0 to {vocabulary - 1}")
    for name in ("logit_bias", "allowed_token_ids"):
        wrong = [token for token in getattr(params, name) or () if token >= vocabulary]
        if wrong:
            raise RequestError(f"{name} names token {wrong[0]}; ids are 0 to {vocabulary - 1}")
