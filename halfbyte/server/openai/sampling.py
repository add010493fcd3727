"""SamplingParams of a request's body."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from halfbyte.engine.sampling_params import SamplingParams
from halfbyte.server.problems import ServerProblem

if TYPE_CHECKING:
    from halfbyte.server.openai.conversation import Conversation
    from halfbyte.server.openai.protocol import ChatBody, SamplingBody

SAME_NAMES = (
    "temperature", "top_p", "top_k", "min_p", "typical_p", "repetition_penalty", "presence_penalty",
    "frequency_penalty", "seed", "stop", "stop_token_ids", "allowed_token_ids", "bad_words",
)  # fmt: skip
FLAGS = ("include_stop_str_in_output", "ignore_eos", "min_tokens", "skip_special_tokens")
ANY_OBJECT = {"type": "object"}


def sampling_params(body: SamplingBody, *, stops: tuple[str, ...] = (), **others: Any) -> SamplingParams:
    """The parameters. stops: the chat template's own. others: those that faces name differently, such as max_tokens.

    Raises RequestError or ServerProblem for values that do not go together.
    """
    given = {name: value for name in SAME_NAMES if (value := getattr(body, name)) is not None}
    given |= {name: getattr(body, name) for name in FLAGS}
    if stops:
        own = given.get("stop") or ()
        given["stop"] = (*((own,) if isinstance(own, str) else own), *stops)
    if body.logit_bias:
        given["logit_bias"] = _bias(body.logit_bias)
    return SamplingParams(**given | constraint(body) | others)


def chat_params(body: ChatBody, conversation: Conversation, drawn: int = 1) -> SamplingParams:
    """Those of a chat. Raises ServerProblem if its answer would have to keep to two things."""
    most = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    more: dict[str, Any] = {"max_tokens": most, "n": drawn, "logprobs": logprobs}
    if conversation.grammar is not None:
        if constraint(body):
            message = "response_format cannot be combined with tools: give it with tool_choice none"
            raise ServerProblem(400, message, param="response_format")
        more["grammar"] = conversation.grammar
    return sampling_params(body, stops=conversation.stops, **more)


def answers(body: SamplingBody) -> tuple[int, int]:
    """How many to draw, and how often to hand out each: at temperature 0 one answer serves for all n."""
    count = body.n or 1
    return (1, count) if is_greedy(body) else (count, 1)


def is_greedy(body: SamplingBody) -> bool:
    """Whether the likeliest token is taken each time."""
    return body.temperature is not None and body.temperature < 1e-5


def constraint(body: SamplingBody) -> dict[str, Any]:
    """What the answer must keep to, as one of SamplingParams' parameters; none if it is free."""
    found: dict[str, dict[str, Any]] = {}
    form = body.response_format
    if form is not None and form.type == "json_object":
        found["response_format"] = {"json_schema": ANY_OBJECT}
    elif form is not None and form.type == "json_schema" and form.json_schema is not None:
        found["response_format"] = {"json_schema": form.json_schema.schema_}
    for kind in ("json", "regex", "choice", "grammar"):
        parameter = "json_schema" if kind == "json" else kind
        outputs = body.structured_outputs
        within = None if outputs is None else getattr(outputs, "json_" if kind == "json" else kind)
        for name, value in (
            (f"structured_outputs.{kind}", within),
            (f"guided_{kind}", getattr(body, f"guided_{kind}")),
        ):
            if value is not None:
                found[name] = {parameter: value}
    if len(found) > 1:
        raise ServerProblem(400, f"{' and '.join(found)} are given; an answer can keep to one of them")
    return next(iter(found.values()), {})


def _bias(given: dict[str, float]) -> dict[int, float]:
    try:
        return {int(token): value for token, value in given.items()}
    except ValueError:
        raise ServerProblem(400, "logit_bias: its keys must be token ids", param="logit_bias") from None
