"""PLAINFORMAT, and the code in an answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfbyte.errors import PromptError
from halfbyte.prompts.plainformat import ask_plain, plain_code

CODE = "import sys\n\nprint(sys.argv)"


def test_asking():
    asked = "Write a websocket application in node.js. PLAINFORMAT"
    assert ask_plain("Write a websocket application in node.js.") == asked
    assert ask_plain(asked) == asked
    assert ask_plain("Line\n") == "Line PLAINFORMAT"
    with pytest.raises(PromptError, match="needs words"):
        ask_plain(" \n")


@pytest.mark.parametrize(
    ("answer", "code", "language"),
    [
        (CODE, CODE, ""),
        (f"```python\n{CODE}\n```", CODE, "python"),
        (f"```\n{CODE}\n```\n", CODE, ""),
        (f"Here is the code:\n\n```python\n{CODE}\n```\n\nIt prints the arguments.", CODE, "python"),
        (f"```python\n{CODE}", CODE, "python"),
        ("1. So:\n   ```python\n   if x:\n       y()\n\n   ```\n2. Done.", "if x:\n    y()", "python"),
        ("  ~~~\n a\n    b\n  ~~~", "a\n  b", ""),
        (f"````\n```\n{CODE}\n```\n````", f"```\n{CODE}\n```", ""),
        (
            "```bash\npip install x\n```\n```python\na = 1\nb = 2 # longer\n```\n```Python\nc\n```",
            "a = 1\nb = 2 # longer\n\nc",
            "python",
        ),
        ("~~~js\nf()\n~~~", "f()", "js"),
        (f"{CODE}\n```\n\nIt prints the arguments.", CODE, ""),
        (f"{CODE}\n```", CODE, ""),
        (f"Here is the code you want:\n```\n{CODE}", CODE, ""),
        ("Sure:\n```python x = 1```", "x = 1", "python"),
        (f"Here is a program that does it:\n\n{CODE}\n\nIt prints what you give it.", CODE, ""),
        (f"Sure! Here you go:\n\n{CODE}\n\nThe function `print()` writes it (to stdout).", CODE, ""),
        ("```\r\nx\r\n```", "x", ""),
        ("```python\n```\nx = 1", "```python\n```\nx = 1", ""),
    ],
)
def test_the_plain_form(answer, code, language):
    found = plain_code(answer)
    assert (found.code, found.language) == (code, language)
    assert found.found


def test_prose_alone_stays():
    found = plain_code("I cannot write that for you.\n\nPlease ask somebody else about it.")
    assert not found.found
    assert found.code.startswith("I cannot")


def test_spans_show_where_the_code_stands():
    answer = f"Here:\n```python\n{CODE}\n```\ndone"
    (span,) = plain_code(answer).spans
    assert answer[span.start : span.end] == CODE
    assert (span.line, span.column) == (3, 1)


pieces = st.sampled_from(
    ["```", "```python", "~~~~", "`", "\n", "\n\n", "x = 1", "It does what you want.", "\r\n", " "]
)


@given(st.lists(pieces, max_size=15).map("".join) | st.text())
def test_any_answer_has_a_plain_form(answer):
    found = plain_code(answer)
    assert all(0 <= span.start <= span.end <= len(answer) for span in found.spans)
    assert found.code.strip() == found.code.strip("\n").strip()
