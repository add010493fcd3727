"""SamplingParams: vLLM's defaults, and errors that name the parameter, its value and what it may be."""

from __future__ import annotations

import math

import pytest

from halfbyte.engine.sampling_params import SamplingParams
from halfbyte.errors import RequestError


def test_defaults_are_vllms():
    p = SamplingParams()
    assert (p.n, p.temperature, p.top_p, p.top_k, p.min_p, p.repetition_penalty) == (1, 1.0, 1.0, 0, 0.0, 1.0)
    assert (p.max_tokens, p.min_tokens, p.seed, p.stop_strings, p.stop_ids) == (16, 0, None, (), ())
    assert (p.ignore_eos, p.include_stop_str_in_output, p.skip_special_tokens) == (False, False, True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 0),
        ("n", True),
        ("n", 1.5),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", "hot"),
        ("temperature", None),
        ("top_p", 0),
        ("top_p", 1.01),
        ("top_p", math.nan),
        ("top_p", True),
        ("top_k", -2),
        ("top_k", 40.0),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("repetition_penalty", 0),
        ("repetition_penalty", 5e-324),  # no number is left of a logit times it
        ("repetition_penalty", math.inf),
        ("max_tokens", 0),
        ("max_tokens", "16"),
        ("min_tokens", -1),
        ("min_tokens", 17),
        ("seed", 2**64),
        ("seed", 0.5),
        ("stop", ""),
        ("stop", ["a", ""]),
        ("stop", [1]),
        ("stop", 7),
        ("stop", b"end"),
        ("stop_token_ids", [-1]),
        ("stop_token_ids", ["2"]),
        ("stop_token_ids", 2),
        ("ignore_eos", 1),
        ("skip_special_tokens", None),
    ],
)
def test_what_is_out_of_range_is_named(name, value):
    with pytest.raises(RequestError) as error:
        SamplingParams(**{name: value})
    assert str(error.value).startswith(f"{name} is {value!r}; it must be ")


def test_several_greedy_answers_would_be_the_same():
    with pytest.raises(RequestError, match=r"n is 2; it must be 1 at temperature 0"):
        SamplingParams(n=2, temperature=0)


def test_stop_may_be_a_text_or_a_list():
    assert SamplingParams(stop="end").stop_strings == ("end",)
    assert SamplingParams(stop=["a", "b"]).stop_strings == ("a", "b")
    assert SamplingParams(stop_token_ids=[1, 2]).stop_ids == (1, 2)


def test_numbers_of_other_kinds_are_taken():
    import numpy as np

    p = SamplingParams(temperature=np.float32(0.5), top_k=np.int64(5), top_p=1)
    assert (p.temperature, p.top_k, p.top_p) == (0.5, 5, 1.0)
    assert (type(p.temperature), type(p.top_k)) == (float, int)


def test_it_is_frozen():
    with pytest.raises(AttributeError):
        SamplingParams().temperature = 0.5
