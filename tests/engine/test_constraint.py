"""Constrained decoding: every answer keeps to its grammar, greedy and sampled, and wrong grammars are refused early."""

from __future__ import annotations

import json
import re

import numpy as np
import pydantic
import pytest
import torch
from tiny_repository import write_repository

from halfbyte.engine.constraint import Constraint
from halfbyte.engine.llm import LLM
from halfbyte.engine.sampler import sample
from halfbyte.engine.sampler_row import SamplerRow
from halfbyte.engine.sampling_params import SamplingParams
from halfbyte.errors import GenerationError, PromptError, RequestError
from halfbyte.prompts.functions import FunctionPrompt


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    return LLM(write_repository(tmp_path_factory.mktemp("tiny") / "model"))


def answers(llm, n=4, temperature=1.5, max_tokens=200, **constraint):
    """Answers of a model with random weights: nothing but the constraint gives them form."""
    greedy = SamplingParams(temperature=0, max_tokens=max_tokens, **constraint)
    drawn = SamplingParams(temperature=temperature, n=n, seed=1, max_tokens=max_tokens, **constraint)
    return [o for r in llm.generate(["a", "b"], [greedy, drawn]) for o in r.outputs]


class Point(pydantic.BaseModel):
    x: int = pydantic.Field(ge=0, le=9)
    name: str = pydantic.Field(max_length=5)


SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}
SCHEMA |= {"x-guidance": {"whitespace_flexible": False}}


@pytest.mark.parametrize("schema", [SCHEMA, json.dumps(SCHEMA)])
def test_json_schema(llm, schema):
    for output in answers(llm, json_schema=schema):
        assert set(json.loads(output.text)) == {"ok"}
        assert output.finish_reason == "stop"


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False},
        {"$defs": {"b": {"items": {"type": "boolean"}, "maxItems": 2}}, "required": ["ok"], "additionalProperties": False,
         "properties": {"ok": {"anyOf": [{"$ref": "#/$defs/b"}, {"type": "boolean"}]}}},
    ],
)  # fmt: skip
def test_a_schema_of_an_object_that_does_not_say_so(llm, schema):
    for output in answers(llm, json_schema=schema):
        value = json.loads(output.text)["ok"]
        assert isinstance(value, bool) or all(isinstance(item, bool) for item in value)


def test_a_pydantic_model(llm):
    for output in answers(llm, json_schema=Point):
        if output.finish_reason == "stop":
            Point.model_validate_json(output.text)


def test_regex(llm):
    for output in answers(llm, regex="[ab]{3}-[0-9]{2}"):
        assert re.fullmatch("[ab]{3}-[0-9]{2}", output.text)


def test_choice(llm):
    found = {output.text for output in answers(llm, n=40, temperature=5, choice=["yes", "no", 'say "ü"\n'])}
    assert found <= {"yes", "no", 'say "ü"\n'}
    assert len(found) > 1


@pytest.mark.parametrize("grammar", ['start: ("ab" | "c")+ "!"', 'root ::= ("ab" | "c"){1,3} "!"'])
def test_lark_and_gbnf(llm, grammar):
    for output in answers(llm, grammar=grammar):
        if output.finish_reason == "stop":
            assert re.fullmatch("(ab|c)+!", output.text)


def test_the_end_token_comes_only_where_the_grammar_allows_it(llm):
    outputs = answers(llm, n=30, temperature=5, max_tokens=30, regex="(ab)*c?")
    for output in outputs:
        assert re.fullmatch("(ab)*(ab?|c)?" if output.finish_reason == "length" else "(ab)*c?", output.text)
    assert {output.finish_reason for output in outputs} == {"stop", "length"} or len({o.text for o in outputs}) > 1


def test_min_tokens_gives_way_to_the_grammar_where_it_must(llm):
    (output,) = llm.generate("a", SamplingParams(temperature=0, min_tokens=10, max_tokens=20, choice=["yes"]))[
        0
    ].outputs
    assert output.text == "yes"
    (output,) = llm.generate("a", SamplingParams(temperature=0, min_tokens=6, max_tokens=20, regex="a*"))[0].outputs
    assert len(output.token_ids) >= 6


def test_it_streams(llm):
    params = SamplingParams(temperature=0, choice=["hello there"], max_tokens=50)
    steps = list(llm.stream("a", params))
    assert "".join(step.text for step in steps) == "hello there"
    assert steps[-1].finish_reason == "stop"


def test_free_rows_beside_a_constrained_one_are_untouched():
    class Only:
        def forbidden(self):
            return (torch.arange(8) != 3).byte().numpy()

        def takes(self, token):
            return token == 3

    params = SamplingParams(temperature=0, min_tokens=1)
    rows = [SamplerRow(params, 0, []), SamplerRow(params, 0, [], ends=(3,), constraint=Only())]
    logits = torch.zeros(2, 8)
    logits[:, 5] = 1
    assert sample(logits, rows) == [5, 3]


@pytest.mark.parametrize("likeliest", [3, 4])
def test_a_greedy_row_looks_at_all_that_is_allowed_only_where_the_likeliest_is_not(likeliest):
    looked = []

    class Odd:
        bits = np.array([0b10101010], dtype=np.uint32)

        def allowed(self):
            looked.append(True)
            return self.bits.ctypes.data

        def takes(self, token):
            return token % 2 == 1

    logits = torch.zeros(1, 8)
    logits[0, 5], logits[0, likeliest] = 1, 2
    expected = 3 if likeliest == 3 else 5
    assert sample(logits, [SamplerRow(SamplingParams(temperature=0), 0, [], constraint=Odd())]) == [expected]
    assert bool(looked) == (likeliest == 4)


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_a_constrained_row_draws_from_what_is_allowed(top_p):
    """Whether or not it is first drawn from as if it were free: within 4 standard deviations of each share."""

    class Odd:
        bits = np.array([0b10101010], dtype=np.uint32)

        def allowed(self):
            return self.bits.ctypes.data

        def takes(self, token):
            return token % 2 == 1

    count, logits = 6000, torch.tensor([2.0, 1.5, 0.0, 1.0, 1.0, 0.5, -1.0, -2.0])
    params = SamplingParams(top_p=top_p)
    rows = [SamplerRow(params, seed, [], constraint=Odd()) for seed in range(count)]
    tokens = sample(logits.expand(count, -1).clone(), rows)
    shares = torch.bincount(torch.tensor(tokens), minlength=8) / count
    expected = logits.where(torch.arange(8) % 2 == 1, -torch.inf).softmax(-1)
    if top_p < 1:  # the last of the four is beyond it
        expected = expected.where(torch.arange(8) != 7, 0)
        expected /= expected.sum()
    assert ((shares - expected).abs() <= 4 * (expected * (1 - expected) / count).sqrt()).all()


def test_a_constraint_that_fails_ends_its_own_request_alone(llm, monkeypatch):
    broken = GenerationError("the constraint cannot be followed: too much")

    def fail(self):
        raise broken

    monkeypatch.setattr(Constraint, "allowed", fail)
    params = SamplingParams(temperature=0, max_tokens=6)
    free = llm.generate("a", params)[0].outputs[0].token_ids
    for bound in ({"choice": ["zzz"]}, {"choice": ["zzz"], "bad_words": ["b"]}, {"choice": ["zzz"], "logprobs": 1}):
        outputs = llm.generate(["a", "a"], [SamplingParams(temperature=0.5, top_p=0.9, **bound), params])
        assert outputs[0].error is broken
        assert outputs[1].outputs[0].token_ids == free


@pytest.mark.parametrize(
    "constraint",
    [{"regex": "("}, {"grammar": "start: missing"}, {"grammar": "root ::= missing"}, {"grammar": "no grammar"}, {"json_schema": {"type": "nothing"}}, {"json_schema": {"$ref": "#/nothing"}}],
)  # fmt: skip
def test_what_cannot_be_compiled_is_refused_before_anything_runs(llm, constraint):
    with pytest.raises(RequestError, match=next(iter(constraint))):
        llm.generate(["a", "a"], [SamplingParams(), SamplingParams(**constraint)])
    with pytest.raises(RequestError):
        llm.stream("a", SamplingParams(**constraint))


ENDLESS = {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"], "additionalProperties": False}


@pytest.mark.parametrize(
    "constraint",
    [{"json_schema": {"$ref": "#"}}, {"grammar": "start: again\nagain: start"}, {"grammar": 'start: "a" start'}],
)
def test_what_no_answer_can_satisfy_is_refused(llm, constraint):
    with pytest.raises(RequestError, match="no finite answer satisfies it"):
        llm.generate("a", SamplingParams(**constraint))


def test_recursion_that_can_end_is_followed(llm):
    ending = {"type": "array", "items": {"$ref": "#"}, "maxItems": 2}
    for output in answers(llm, n=8, json_schema=ending):
        if output.finish_reason == "stop":
            assert isinstance(json.loads(output.text), list)
    assert answers(llm, n=1, max_tokens=8, json_schema=ENDLESS)[0].text.startswith("{")  # until max_tokens


@pytest.mark.parametrize("temperature", [0, 0.8])
@pytest.mark.parametrize("more", [{}, {"logprobs": 2}])
@pytest.mark.parametrize(
    ("against", "names"),
    [
        ({"choice": ["yes"], "allowed_token_ids": [65]}, "allowed_token_ids and choice contradict each other: after 0"),
        ({"regex": "ya", "bad_words": ["a"]}, "bad_words and regex contradict each other: after 1"),
        ({"allowed_token_ids": [65], "bad_words": ["b"]}, "bad_words and allowed_token_ids contradict each other"),
    ],
)
def test_what_contradicts_itself_ends_with_an_error_that_names_it(llm, temperature, more, against, names):
    params = SamplingParams(temperature=0, max_tokens=6)
    wrong = SamplingParams(temperature=temperature, **against, **more)
    outputs = llm.generate(["a", "a"], [wrong, params])
    assert isinstance(outputs[0].error, GenerationError)
    assert names in str(outputs[0].error)
    assert outputs[1].outputs[0].token_ids == llm.generate("a", params)[0].outputs[0].token_ids


@pytest.mark.parametrize(
    "constraint",
    [{"regex": "a", "choice": ["a"]}, {"choice": []}, {"choice": "abc"}, {"choice": ["a", 3]}, {"regex": 3}, {"grammar": b"x"}, {"json_schema": "{"}, {"json_schema": 3}, {"json_schema": {"a": {1}}}],
)  # fmt: skip
def test_parameters_are_checked(constraint):
    with pytest.raises(RequestError):
        SamplingParams(**constraint)


def lights(room: str, level: int, on: bool = True, kind: str | None = None, extra: dict | None = None) -> None:
    """Switch lights."""


def place(at: dict[str, int], tags: list[str]) -> None:
    """Nested."""


FUNCTIONS = [
    lights,
    place,
    {"name": "wait", "parameters": {}},
    {
        "name": "nested",
        "parameters": {
            "properties": {
                "f": {"properties": {"word": {"type": "string"}, "n": {"enum": ["no", 3]}}, "required": ["word"]}
            }
        },
    },
]


@pytest.mark.parametrize("form", ["json", "yaml"])
@pytest.mark.parametrize("max_calls", [1, 3])
def test_an_invalid_call_cannot_be_sampled(llm, form, max_calls):
    prompt = FunctionPrompt(FUNCTIONS, form, max_calls=max_calls, max_string=6)
    constraints = [{"grammar": prompt.grammar().lark()}, {"grammar": prompt.grammar().gbnf()}]
    constraints += [{"json_schema": prompt.json_schema()}] * (form == "json")
    whole = 0
    for constraint in constraints:
        for output in answers(llm, n=12, temperature=3, max_tokens=255, **constraint):
            if output.finish_reason == "stop":
                prompt.parse(output.text)
                whole += 1
    assert whole > 10


SHAPED = {
    "code": {"type": "string", "pattern": "^[A-Z]{3}$"},
    "day": {"type": "string", "format": "date"},
    "id": {"type": "string", "format": "uuid"},
    "word": {"type": "string", "format": "password", "maxLength": 3},  # a remark: no grammar knows it
}


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_texts_keep_their_shape(llm, form):
    prompt = FunctionPrompt([{"name": "f", "parameters": {"properties": SHAPED, "required": [*SHAPED]}}], form)
    constraints = [{"grammar": prompt.grammar().lark()}]
    constraints += [{"json_schema": prompt.json_schema()}] * (form == "json")
    shapes = {"code": "[A-Z]{3}", "day": r"\d{4}-\d\d-\d\d", "id": "[0-9a-fA-F-]{36}", "word": "(?s:.{0,3})"}
    for constraint in constraints:
        for output in answers(llm, max_tokens=255, **constraint):
            for call in prompt.parse(output.text):
                assert all(re.fullmatch(shapes[name], text) for name, text in call.params.items())


def test_a_format_that_nobody_knows_is_a_remark(llm):
    word = {"type": "string", "format": "password", "maxLength": 3}
    for output in answers(llm, json_schema={"properties": {"word": word}, "required": ["word"]}):
        if output.finish_reason == "stop":
            assert len(json.loads(output.text)["word"]) <= 3


def sized(a: float, b: int, c: dict[str, float]) -> None:
    """Numbers."""


def test_every_call_ends(llm):
    """Numbers have no length of their own: without bounds, digits may go on for ever."""
    prompt = FunctionPrompt([sized], max_string=6)
    for constraint in ({"json_schema": prompt.json_schema()}, {"grammar": prompt.grammar().lark()}):
        for output in answers(llm, n=30, temperature=0.7, max_tokens=250, **constraint):
            assert output.finish_reason == "stop"
            prompt.parse(output.text)


@pytest.mark.parametrize(
    ("function", "params"),
    [
        ("lights", {"room": 'é "q" \\', "level": -3}),
        ("lights", {"room": "", "level": 0, "kind": None}),
        ("lights", {"room": "a", "level": 3, "on": False, "extra": {}}),
        ("place", {"at": {}, "tags": []}),
        ("nested", {"f": {"word": "w", "n": "no"}}),
        ("nested", {"f": {"word": "w", "n": 3}}),
        ("nested", {"f": {"word": "w"}}),
        ("nested", {}),
        ("wait", {}),
    ],
)
@pytest.mark.parametrize("many", [1, 2])
def test_valid_calls_are_allowed(llm, function, params, many):
    prompt = FunctionPrompt(FUNCTIONS, max_calls=2)
    text = prompt.write([(function, params)] * many)
    if many == 1:
        text = "[\n" + "\n".join("  " + line for line in text.split("\n")) + "\n]"
    for grammar in (prompt.grammar().lark(), prompt.grammar().gbnf()):
        constraint = llm.engine.constraints.start(SamplingParams(grammar=grammar))
        for token in llm.get_tokenizer().encode(text):
            assert not constraint.forbidden()[token], text
            assert constraint.takes(token), text
            constraint.accept(token)
        assert not constraint.forbidden()[256]


def test_none_can_be_forbidden(llm):
    with_none, without = (FunctionPrompt([lights], allow_none=x) for x in (True, False))
    text = with_none.write([])
    assert with_none.parse(text) == ()
    for prompt, fits in ((with_none, True), (without, False)):
        matcher = llm.engine.constraints.start(SamplingParams(grammar=prompt.grammar().lark()))
        seen = []
        for token in llm.get_tokenizer().encode(text):
            seen.append(matcher.takes(token))
            assert seen[-1] != matcher.forbidden()[token]
            if not seen[-1]:
                break
            matcher.accept(token)
        assert all(seen) == fits
    with pytest.raises(PromptError):
        without.parse("nothing")
