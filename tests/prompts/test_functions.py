"""Function calling: the card's form, every way to declare a function, and answers read and checked."""

from __future__ import annotations

import dataclasses
import enum
import json
from typing import Annotated, Any, Literal, TypedDict

import pydantic
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from halfbyte.errors import PromptError
from halfbyte.prompts.functions import Function, FunctionPrompt, from_openai_tools, to_openai_tool_calls

CARD = """\
As an AI assistant, please select the most suitable function and parameters from the list of available functions below, based on the user's input. Provide your response in JSON format.

Input: I want to know how many times 'Python' is mentioned in my text file.

Available functions:
file_analytics:
  description: This tool performs various operations on a text file.
  params:
    action: The operation we want to perform on the data, such as "count_occurrences", "find_line", etc.
    filters:
      keyword: The word or phrase we want to search for."""
ANALYTICS = {
    "name": "file_analytics",
    "description": "This tool performs various operations on a text file.",
    "parameters": {
        "type": "object",
        "properties": {
            "action": {
                "type": "string",
                "description": 'The operation we want to perform on the data, such as "count_occurrences", "find_line", etc.',
            },
            "filters": {
                "type": "object",
                "properties": {
                    "keyword": {"type": "string", "description": "The word or phrase we want to search for."}
                },
                "required": ["keyword"],
            },
        },
        "required": ["action", "filters"],
    },
}
SWITCH = {
    "name": "switch",
    "parameters": {
        "properties": {
            "country": {"type": "string"},
            "on": {"type": "boolean"},
            "level": {"type": "integer", "minimum": 0, "maximum": 10},
        },
        "required": ["country"],
    },
}
PROMPT = FunctionPrompt([ANALYTICS, SWITCH])
ANSWER = '{\n  "function": "file_analytics",\n  "params": {\n    "action": "count_occurrences",\n    "filters": {\n      "keyword": "Python"\n    }\n  }\n}'
PARAMS = {"action": "count_occurrences", "filters": {"keyword": "Python"}}
AS_YAML = "function: file_analytics\nparams:\n  action: count_occurrences\n  filters:\n    keyword: Python"


def test_the_cards_prompt_to_the_byte():
    assert (
        FunctionPrompt([ANALYTICS]).render("I want to know how many times 'Python' is mentioned in my text file.")
        == CARD
    )
    assert "response in YAML format." in FunctionPrompt([ANALYTICS], "yaml").render("x")


@pytest.mark.parametrize(
    "answer",
    [
        ANSWER,
        f"```json\n{ANSWER}\n```",
        f"Sure! Here it is:\n```\n{ANSWER}\n```\nI chose it {{because}} it counts.",
        f"The {{best}} one is {ANSWER}",
        f"[{ANSWER}]",
        AS_YAML,
        f"```yaml\n{AS_YAML}\n```",
        f"Here you are:\n\n{AS_YAML}\n\nHope it helps.",
        AS_YAML.replace("\n", "\r\n"),
        AS_YAML.replace("  filters:\n    keyword: Python", "  filters: {keyword: 'Python'}"),
        "- " + AS_YAML.replace("\n", "\n  "),
    ],
)
@pytest.mark.parametrize("form", ["json", "yaml"])
def test_answers(answer, form):
    (call,) = FunctionPrompt([ANALYTICS], form).parse(answer)
    assert (call.function, call.params) == ("file_analytics", PARAMS)
    assert answer[call.span.start : call.span.end].lstrip(" -")[0] in "{f"


def test_several_calls():
    two = PROMPT.write([("file_analytics", PARAMS), ("switch", {"country": "no"})])
    for answer in (
        two,
        two[1:-1].replace("},\n  {", "}\nand\n{"),
        f"{AS_YAML}\nfunction: switch\nparams:\n  country: no",
    ):
        assert [call.function for call in PROMPT.parse(answer)] == ["file_analytics", "switch"]


def test_norway():
    (call,) = PROMPT.parse("function: switch\nparams:\n  country: NO\n  on: no\n  level: 3")
    assert call.params == {"country": "NO", "on": False, "level": 3}
    (call,) = FunctionPrompt([{"name": "f", "parameters": {"properties": {"x": {}}}}]).parse(
        "function: f\nparams:\n  x: no"
    )
    assert call.params == {"x": "no"}


@pytest.mark.parametrize(
    "answer",
    [
        '{"function": null, "params": {}}',
        '{"function": "none"}',
        "function: null\nparams: {}",
        "There is no suitable function for that.",
        "No function fits.",
    ],
)
def test_no_suitable_function(answer):
    assert PROMPT.parse(answer) == ()


@pytest.mark.parametrize(
    ("answer", "said", "line", "column"),
    [
        ("I would count.", "no function call", 1, 1),
        ('{"function": "count", "params": {}}', "no function 'count'; there are: file_analytics, switch", 1, 14),
        ('\n{"function": "switch", "params": {"country": "x", "of": 1}}', "no parameter 'of'", 2, 51),
        ('{"function": "switch", "params": {}}', "params lacks 'country'", 1, 34),
        ('{"function": "switch"}', "lacks its params: country", 1, 1),
        ('{"function": "switch", "params": {"country": 47}}', "params.country must be of type string", 1, 46),
        ('{"function": "switch", "params": {"country": "x", "on": "yes"}}', "params.on must be of type boolean", 1, 57),
        ('{"function": "switch", "params": {"country": "x", "level": 11}}', "out of its bounds", 1, 60),
        ('{"function": "switch", "params": {"country": "x", "country": "y"}}', "'country' is there twice", 1, 51),
        ("function: switch\nparams:\n  country: x\n  country: y", "'country' is there twice", 4, 3),
        ("function: switch\nparams:\n  country: [x]", "must be of type string, not a list", 3, 12),
        ("function: switch\nparams:\n  country: &a x\n  level: *a", "anchors and aliases", 3, 12),
        ("function: switch\nparams:\n  country: !!python/name:os.system x", "tags are not allowed", 3, 12),
        ("function: switch\nparams:\n  country: 'x", "not valid YAML", 3, 14),
        ('{"function": "switch", "params": {"country": "x"', "the text ends where comma or end is due", 1, 49),
        ('{"function": "switch", "params": {"country": "x",}}', "not valid JSON where key is due", 1, 50),
        ('{"function": "switch", "extra": 1}', "not 'extra'", 1, 24),
        ('{"params": {}}', 'no "function"', 1, 1),
        ('{"function": {}}', "must be a name", 1, 14),
        (
            '{"function": "file_analytics", "params": {"action": "a", "filters": {"word": "x"}}}',
            "params.filters has no parameter 'word'",
            1,
            70,
        ),
    ],
)
def test_what_is_wrong_is_located(answer, said, line, column):
    with pytest.raises(PromptError) as caught:
        PROMPT.parse(answer)
    assert said in str(caught.value)
    assert (caught.value.line, caught.value.column) == (line, column)


class Unit(enum.Enum):
    C = "celsius"
    F = "fahrenheit"


@dataclasses.dataclass
class Place:
    city: str
    country: str = "NO"


class Range(TypedDict, total=False):
    low: int


class Weather(pydantic.BaseModel):
    """Weather at a place."""

    city: str = pydantic.Field(description="The city.")
    days: int = 1


def forecast(
    place: Place,
    unit: Unit,
    *,
    days: int = 3,
    tags: list[str] | None = None,
    kind: Literal["short", "long"] = "short",
    note: Annotated[str, "Anything."] = "",
    r: Range | None = None,
) -> str:
    """Forecast the weather
    at a place.

    Args:
        place: Where.
        unit (Unit): Of temperature,
            in words.

    Returns:
        A text.
    """


def test_python_callables():
    function = Function.of(forecast)
    assert (function.name, function.description) == ("forecast", "Forecast the weather at a place.")
    properties = function.parameters["properties"]
    assert function.parameters["required"] == ["place", "unit"]
    assert properties["place"]["properties"]["country"] == {"type": "string"}
    assert properties["place"]["required"] == ["city"]
    assert properties["unit"] == {"enum": ["celsius", "fahrenheit"], "description": "Of temperature, in words."}
    assert properties["tags"] == {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]}
    assert properties["note"]["description"] == "Anything."
    prompt = FunctionPrompt([forecast])
    shown = yaml.safe_load(prompt.render("x").split("Available functions:\n")[1])
    assert shown["forecast"]["params"]["place"] == {"city": "string", "country": "string"}
    assert shown["forecast"]["params"]["unit"] == "Of temperature, in words. One of: celsius, fahrenheit."
    (call,) = prompt.parse(
        '{"function": "forecast", "params": {"place": {"city": "Oslo"}, "unit": "celsius", "tags": ["a"], "r": {"low": 1}}}'
    )
    assert call.params["tags"] == ["a"]


def test_pydantic_models():
    function = Function.of(Weather)
    assert (function.name, function.description) == ("Weather", "Weather at a place.")
    assert function.parameters["properties"]["city"] == {"type": "string", "description": "The city."}
    assert function.parameters["required"] == ["city"]

    def at(weather: Weather) -> None:
        """Nested."""

    at.__annotations__["weather"] = Weather
    assert Function.of(at).parameters["properties"]["weather"]["properties"]["days"] == {"type": "integer"}


class Tree(pydantic.BaseModel):
    """Refers to itself."""

    below: list[Tree]


def starred(*args: int) -> None:
    """No names."""


def complexity(x: complex) -> None:
    """No JSON."""


@pytest.mark.parametrize(
    "declared",
    [Tree, starred, complexity, lambda x: x, 3, {}, {"name": "x", "parameters": {"type": "string"}}, {"name": "", "parameters": {}},
     {"name": "x", "parameters": {"$ref": "http://a"}}, {"name": "x", "parameters": {"properties": {"a": {"$ref": "#/nothing"}}}},
     {"name": "x", "parameters": {"properties": {"a": 3}}}, {"name": "x", "description": 3, "parameters": {}}],
)  # fmt: skip
def test_what_cannot_be_declared(declared):
    with pytest.raises(PromptError):
        FunctionPrompt([declared])


def test_prompts_that_cannot_be_built():
    for functions, options in (
        ([], {}),
        ([SWITCH, SWITCH], {}),
        ([SWITCH], {"form": "xml"}),
        ([SWITCH], {"max_calls": 0}),
    ):
        with pytest.raises(PromptError):
            FunctionPrompt(functions, **options)
    with pytest.raises(PromptError):
        PROMPT.render(" ")


TOOLS = [{"type": "function", "function": ANALYTICS}, {"type": "function", "function": SWITCH}]


def test_the_bridge_to_openai():
    prompt = from_openai_tools(TOOLS)
    assert prompt.render("x") == PROMPT.render("x")
    (call,) = to_openai_tool_calls(prompt.parse(ANSWER), "call_ab")
    assert call["id"] == "call_ab0"
    assert call["function"]["name"] == "file_analytics"
    assert json.loads(call["function"]["arguments"]) == PARAMS
    assert from_openai_tools(TOOLS, "none") is None
    assert prompt.allow_none
    assert not from_openai_tools(TOOLS, "required").allow_none
    only = from_openai_tools(TOOLS, {"type": "function", "function": {"name": "switch"}})
    assert [f.name for f in only.functions] == ["switch"]
    for choice in ("other", {"type": "function", "function": {"name": "other"}}, 3):
        with pytest.raises(PromptError):
            from_openai_tools(TOOLS, choice)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=8),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=5), v, max_size=3),
    max_leaves=6,
)


@given(
    st.text(max_size=30),
    st.dictionaries(st.text(min_size=1, max_size=5), json_values, max_size=3),
    st.sampled_from(["json", "yaml"]),
)
def test_what_is_written_is_read(action, free, form):
    free_function: dict[str, Any] = {
        "name": "free",
        "parameters": {"properties": {"x": {"type": "object"}, "action": {"type": "string"}}},
    }
    prompt = FunctionPrompt([free_function], form)
    params = {"x": free, "action": action}
    written = prompt.write([("free", params)])
    (call,) = prompt.parse(written)
    assert call.params == params


@given(st.text(max_size=20))
def test_descriptions_read_back(text):
    prompt = FunctionPrompt(
        [{"name": "f", "description": text, "parameters": {"properties": {text: {"description": text}}}}]
    )
    shown = yaml.safe_load(prompt.render("x").split("Available functions:\n")[1])["f"]
    words = " ".join(text.split())
    assert shown == {"description": words, "params": {text: words or "value"}}


tokens = [
    '{"',
    "function",
    '"',
    ":",
    "{",
    "}",
    "[",
    "]",
    ",",
    " ",
    "\n",
    "params",
    "switch",
    "country",
    "```",
    "- ",
    "function: ",
    "  ",
    "null",
    "1e5",
    "-",
    "\\",
    "&a",
    "*a",
    "!!x",
    "|",
    "'",
    "\t",
    "#",
    "\x00",
    "\ud800",
    "\u2028",
]


@given(st.lists(st.sampled_from(tokens), max_size=25).map("".join) | st.text(), st.sampled_from(["json", "yaml"]))
def test_any_text_is_read_or_refused_with_a_place(text, form):
    try:
        calls = FunctionPrompt([SWITCH, ANALYTICS], form).parse(text)
    except PromptError as error:
        assert error.line >= 1
        assert error.column >= 1
    else:
        assert all(0 <= call.span.start <= call.span.end <= len(text) for call in calls)


def test_depth_is_bounded():
    for answer in (
        '{"function": ' * 5000,
        "function: switch\nparams:\n  country: " + "[" * 5000,
        '{"function": [' + "[" * 10000,
    ):
        with pytest.raises(PromptError):
            PROMPT.parse(answer)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("null", None),
        ("~", None),
        ("", None),
        ("5", 5),
        ("true", True),
        ("no", "no"),
        ("x", "x"),
        ('"null"', "null"),
        ("'5'", "5"),
    ],
)
@pytest.mark.parametrize("form", ["union", "types"])
def test_yaml_without_quotes_is_a_string_only_where_it_can_be_nothing_else(word, value, form):
    kinds = ["string", "null", "integer", "boolean"]
    schema = {"anyOf": [{"type": kind} for kind in kinds]} if form == "union" else {"type": kinds}
    tool = {"name": "f", "parameters": {"type": "object", "properties": {"a": schema}, "required": ["a"]}}
    (call,) = FunctionPrompt([tool], form="yaml").parse(f"function: f\nparams:\n  a: {word}\n")
    assert call.params == {"a": value}
    assert type(call.params["a"]) is type(value)


def test_a_null_that_the_grammar_writes_is_read_as_one():
    def mix(a: int, note: str | None = None) -> None:
        """Mixes."""

    (call,) = FunctionPrompt([mix], form="yaml").parse("function: mix\nparams:\n  a: 1\n  note: null")
    assert call.params == {"a": 1, "note": None}


@pytest.mark.parametrize(
    ("schema", "good", "bad", "says"),
    [
        ({"pattern": "^[A-Z]+$"}, "ABC", "abc", r"params\.x is 'abc', which does not match '\^\[A-Z\]\+\$'"),
        ({"format": "date"}, "2024-02-29", "2023-02-29", "which is no date"),
        ({"format": "ipv4"}, "127.0.0.1", "127.0.0.256", "which is no ipv4"),
        ({"format": "date-time"}, "2024-02-29T10:00:00Z", "now", "which is no date-time"),
    ],
)
def test_a_texts_shape_is_checked(schema, good, bad, says):
    prompt = FunctionPrompt([{"name": "f", "parameters": {"properties": {"x": {"type": "string", **schema}}}}])
    assert prompt.parse(json.dumps({"function": "f", "params": {"x": good}}))[0].params == {"x": good}
    with pytest.raises(PromptError, match=says):
        prompt.parse(json.dumps({"function": "f", "params": {"x": bad}}))


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_half_a_character_is_refused(form):
    """Nobody could write it to a file or send it on."""

    def say(text: str) -> None:
        """Says."""

    answer = r'{"function": "say", "params": {"text": "a\ud83d b"}}'
    with pytest.raises(PromptError, match=r"line 1, column \d+: "):
        FunctionPrompt([say], form=form).parse(answer)
    (call,) = FunctionPrompt([say], form="json").parse(answer.replace(" b", r"\ude00"))
    assert call.params == {"text": "a😀"}
