"""How an answer is to be sampled and when it ends, in vLLM's words and with vLLM's defaults."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from halfbyte.errors import RequestError
from halfbyte.prompts.plain_schema import plain_schema

CONSTRAINTS = ("json_schema", "regex", "choice", "grammar")
GREEDY_BELOW = 1e-5  # a temperature under this is taken as 0, as vLLM does: dividing by it would overflow


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Checked when it is made: RequestError names the parameter, what it was and what it may be."""

    n: int = 1  # answers to draw for one prompt
    best_of: int | None = None  # answers to draw, of which the n of the highest cumulative_logprob are returned
    temperature: float = 1.0  # 0 takes the likeliest token, and of equals the lowest id
    top_p: float = 1.0  # keep the likeliest tokens that reach this share of the probability
    top_k: int = 0  # keep this many of the likeliest tokens; 0 or -1: all
    min_p: float = 0.0  # keep tokens at least this likely, relative to the likeliest
    typical_p: float = 1.0  # keep the tokens of the most typical surprise that reach this share (arXiv:2202.00666)
    repetition_penalty: float = 1.0  # over 1 discourages every token of the prompt and of the answer so far
    presence_penalty: float = 0.0  # taken from the logit of each token that the answer has
    frequency_penalty: float = 0.0  # taken as many times as the answer has the token
    logit_bias: Mapping[int, float] | None = None  # added to the logits of these tokens; cut to -100 to 100
    allowed_token_ids: Iterable[int] | None = None  # no other token can come; kept as a tuple
    bad_words: Iterable[str] | None = None  # texts whose tokens may not come one after the other; kept as a tuple
    stop: str | Iterable[str] | None = None  # texts that end the answer; kept as a tuple
    stop_token_ids: Iterable[int] | None = None  # tokens that end the answer, besides the model's own; kept as a tuple
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    max_tokens: int | None = 16  # None: to the end of the context
    min_tokens: int = 0  # tokens before which nothing but max_tokens ends the answer
    seed: int | None = None  # the same seed gives the same tokens, whatever else is running
    skip_special_tokens: bool = True
    logprobs: int | None = None  # give the log-probability of each token, and this many of the likeliest
    prompt_logprobs: int | None = None  # the same for the prompt's tokens
    echo: bool = False  # the prompt's text comes first
    truncate_prompt_tokens: int | None = None  # keep this many of the prompt's last tokens
    # At most one of these; the answer then keeps to it (see halfbyte.engine.constraint):
    json_schema: str | dict[str, Any] | None = None  # or a pydantic model; kept as text
    regex: str | None = None  # Rust's syntax, for the whole answer
    choice: Iterable[str] | None = None  # one of these texts; kept as a tuple
    grammar: str | None = None  # Lark (llguidance's dialect) or GBNF

    def __post_init__(self) -> None:
        self._integer("n", "1 or more", lambda x: x >= 1)
        self._integer("best_of", f"n, which is {self.n}, or more, or None", lambda x: x >= self.n, optional=True)
        self._real("temperature", "0 or more", lambda x: x >= 0)
        self._real("top_p", "over 0 and at most 1", lambda x: 0 < x <= 1)
        self._integer("top_k", "-1 or 0 (off), or 1 or more", lambda x: x >= -1)
        self._real("min_p", "between 0 and 1", lambda x: 0 <= x <= 1)
        self._real("typical_p", "over 0 and at most 1", lambda x: 0 < x <= 1)
        self._real("repetition_penalty", "0.001 to 1000", lambda x: 1e-3 <= x <= 1e3)  # a logit times it is a number
        for name in ("presence_penalty", "frequency_penalty"):
            self._real(name, "between -2 and 2", lambda x: -2 <= x <= 2)
        self._integer("max_tokens", "1 or more, or None", lambda x: x >= 1, optional=True)
        self._integer("min_tokens", "0 or more", lambda x: x >= 0)
        self._integer("seed", "between -2**63 and 2**64 - 1, or None", lambda x: -(2**63) <= x < 2**64, optional=True)
        for name in ("logprobs", "prompt_logprobs"):
            self._integer(name, "0 or more, or None", lambda x: x >= 0, optional=True)
        self._integer("truncate_prompt_tokens", "1 or more, or None", lambda x: x >= 1, optional=True)
        for name in ("include_stop_str_in_output", "ignore_eos", "skip_special_tokens", "echo"):
            if not isinstance(getattr(self, name), bool):
                raise _invalid(name, getattr(self, name), "True or False")
        object.__setattr__(self, "stop", _texts("stop", self.stop) or ())
        object.__setattr__(self, "bad_words", _texts("bad_words", self.bad_words) or ())
        object.__setattr__(self, "stop_token_ids", _token_ids("stop_token_ids", self.stop_token_ids) or ())
        object.__setattr__(self, "allowed_token_ids", _token_ids("allowed_token_ids", self.allowed_token_ids))
        self._check_logit_bias()
        if self.allowed_token_ids == ():
            raise _invalid("allowed_token_ids", [], "a list of at least one token id, or None")
        self._check_constraint()
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise _invalid("min_tokens", self.min_tokens, f"at most max_tokens, {self.max_tokens}")
        if self.greedy and self.drawn > 1:
            name = "n" if self.best_of is None else "best_of"
            raise _invalid(name, self.drawn, "1 at temperature 0, where every answer is the same")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken, without drawing."""
        return self.temperature < GREEDY_BELOW

    @property
    def drawn(self) -> int:
        """How many answers are drawn, whether or not all are returned."""
        return self.n if self.best_of is None else self.best_of

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """`stop` as a tuple."""
        assert isinstance(self.stop, tuple)
        return self.stop

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """`stop_token_ids` as a tuple."""
        assert isinstance(self.stop_token_ids, tuple)
        return self.stop_token_ids

    @property
    def constraint(self) -> tuple[str, str | tuple[str, ...]] | None:
        """What the answer must keep to, as the parameter's name and its value; None if it is free."""
        given = ((name, getattr(self, name)) for name in CONSTRAINTS)
        return next(((name, value) for name, value in given if value is not None), None)

    def _check_constraint(self) -> None:
        given = [name for name in CONSTRAINTS if getattr(self, name) is not None]
        if len(given) > 1:
            raise RequestError(f"{' and '.join(given)} are given; an answer can keep to one of them")
        if self.choice is not None:
            allowed = "a list of texts, none of them empty"
            choice = _listed("choice", self.choice, allowed)
            if not choice or not all(isinstance(c, str) and c for c in choice):
                raise _invalid("choice", self.choice, allowed)
            object.__setattr__(self, "choice", choice)
        if self.json_schema is not None:
            object.__setattr__(self, "json_schema", _schema_text(self.json_schema))
        for name in ("regex", "grammar"):
            if not isinstance(getattr(self, name), str | None):
                raise _invalid(name, getattr(self, name), "a text")

    def _integer(self, name: str, allowed: str, fits: Any, *, optional: bool = False) -> None:
        value = getattr(self, name)
        if value is None and optional:
            return
        if isinstance(value, bool) or not isinstance(value, Integral) or not fits(int(value)):
            raise _invalid(name, value, f"a whole number, {allowed}")
        object.__setattr__(self, name, int(value))

    def _real(self, name: str, allowed: str, fits: Any) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value) or not fits(value):
            raise _invalid(name, value, f"a number, {allowed}")
        object.__setattr__(self, name, float(value))

    def _check_logit_bias(self) -> None:
        if self.logit_bias is None:
            return
        allowed = "a mapping of token ids to numbers"
        try:
            bias = {operator.index(int(i)): float(b) for i, b in dict(self.logit_bias).items()}  # JSON's keys are texts
        except (TypeError, ValueError):
            raise _invalid("logit_bias", self.logit_bias, allowed) from None
        if any(i < 0 or math.isnan(b) for i, b in bias.items()):
            raise _invalid("logit_bias", self.logit_bias, allowed)
        object.__setattr__(self, "logit_bias", {i: min(max(b, -100.0), 100.0) for i, b in bias.items()})


def _texts(name: str, value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    texts = (value,) if isinstance(value, str) else _listed(name, value, "a text or a list of texts")
    if not all(isinstance(s, str) and s for s in texts):
        raise _invalid(name, value, "a text or a list of texts, none of them empty")
    return texts


def _token_ids(name: str, value: Any) -> tuple[int, ...] | None:
    if value is None:
        return None
    allowed = "a list of token ids, 0 or more"
    ids = _listed(name, value, allowed)
    if any(isinstance(i, bool) or not isinstance(i, Integral) or i < 0 for i in ids):
        raise _invalid(name, value, allowed)
    return tuple(operator.index(i) for i in ids)


def _schema_text(schema: Any) -> str:
    """A JSON schema as text; a pydantic model gives its own."""
    try:
        found = schema.model_json_schema() if hasattr(schema, "model_json_schema") else schema
        found = json.loads(found) if isinstance(found, str) else found
        if isinstance(found, dict | bool):
            return json.dumps(plain_schema(found))
    except (ValueError, TypeError, RecursionError) as error:
        raise RequestError(f"json_schema is not JSON: {error}") from error
    raise _invalid("json_schema", schema, "a JSON schema: an object, its text, or a pydantic model")


def _listed(name: str, value: Any, allowed: str) -> tuple[Any, ...]:
    if value is None:
        return ()
    if not isinstance(value, Iterable) or isinstance(value, str | bytes):
        raise _invalid(name, value, allowed)
    return tuple(value)


def _invalid(name: str, value: object, allowed: str) -> RequestError:
    return RequestError(f"{name} is {value!r}; it must be {allowed}")
