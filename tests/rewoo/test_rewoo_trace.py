"""What is kept of a run: JSON, table, picture."""

from __future__ import annotations

import asyncio
import io
import json
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from halfbyte.errors import RunError, ToolError, TraceError
from halfbyte.rewoo import Executor, Trace
from halfbyte.rewoo.trace_picture import trace_picture
from halfbyte.rewoo.trace_table import trace_table

PLAN = "Plan: a\n:evidence0: = A[x]\n:evidence1: = A[y]\n:evidence2: = F[:evidence0: :evidence1:]\n:evidence3: = A[:evidence2:]\n"


async def answer(text):
    await asyncio.sleep(0.01)
    return f"<b>&\x07 [bold]{text}"


async def fail(text):
    raise ToolError("broken <tag>")


@pytest.fixture(scope="module")
def trace():
    with pytest.raises(RunError) as e:
        asyncio.run(Executor({"A": answer, "F": fail}).run(PLAN, question="Why?"))
    return e.value.trace


def test_json_and_back(trace):
    assert Trace.from_json(trace.to_json()) == trace
    value = json.loads(trace.to_json())
    assert value["halfbyte_trace"] == 1
    assert value["question"] == "Why?"
    assert value["status"] == "failed"
    assert [step["status"] for step in value["steps"]] == ["done", "done", "failed", "waiting"]
    assert value["steps"][2]["attempts"][0]["error"] == "broken <tag>"


def test_the_table(trace):
    out = io.StringIO()
    Console(file=out, width=120).print(trace_table(trace))
    text = out.getvalue()
    for said in (":evidence2:", "failed", "broken <tag>", "[bold]x", "3 calls"):
        assert said in text


def test_the_picture(trace):
    root = ElementTree.fromstring(trace_picture(trace))
    tags = [element.tag.rpartition("}")[2] for element in root.iter()]
    assert tags.count("path") == 3
    assert tags.count("rect") == 1 + 4
    assert ":evidence2: F" in "".join(root.itertext())
    ElementTree.fromstring(trace_picture(Trace()))


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", "null", "7", '{"halfbyte_trace": 2, "steps": []}', '{"halfbyte_trace": 1}', "[" * 100_000,
        '{"halfbyte_trace": 1, "steps": [7]}', '{"halfbyte_trace": 1, "steps": [{}]}',
        '{"halfbyte_trace": 1, "steps": [{"id": "x", "label": "", "tool": "", "argument": ""}]}',
        '{"halfbyte_trace": 1, "steps": [{"id": 1, "label": "", "tool": "", "argument": "", "evidence": 3}]}',
        '{"halfbyte_trace": 1, "steps": [{"id": 1, "label": "", "tool": "", "argument": "", "attempts": [{}]}]}',
        '{"halfbyte_trace": 1, "steps": [], "replaced": []}',
    ],
)  # fmt: skip
def test_what_is_no_trace(text):
    with pytest.raises(TraceError):
        Trace.from_json(text)


@settings(max_examples=40, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)
    )
)
def test_any_json_is_a_trace_or_is_refused(value):
    for given_ in (value, {"halfbyte_trace": 1, "steps": value}, {"halfbyte_trace": 1, "steps": [], "replaced": value}):
        try:
            Trace.from_json(json.dumps(given_))
        except TraceError:
            continue
