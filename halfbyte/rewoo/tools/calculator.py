"""Calculator: arithmetic that is read, never evaluated as a program, and cannot grow without bound."""

from __future__ import annotations

import ast
import math
import operator
import re
from typing import TYPE_CHECKING

from halfbyte.errors import ToolError
from halfbyte.rewoo.tool import tool

if TYPE_CHECKING:
    from collections.abc import Callable

Number = int | float

LONGEST = 500  # characters of an expression
LARGEST = 10**100  # of any value on the way
OPERATORS: dict[type, Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


def _round(value: Number, digits: Number = 0) -> Number:
    return round(value, max(-100, min(int(digits), 100)))  # 10**digits is computed


FUNCTIONS: dict[str, Callable[..., Number]] = {
    "abs": abs, "ceil": math.ceil, "cos": math.cos, "exp": math.exp, "floor": math.floor, "log": math.log,
    "log10": math.log10, "log2": math.log2, "max": max, "min": min, "round": _round, "sin": math.sin,
    "sqrt": math.sqrt, "tan": math.tan,
}  # fmt: skip
_KNOWS = "only numbers, + - * / // % **, brackets and known functions"
_PERCENT_OF = re.compile(r"([0-9][0-9.]{0,30})[ ]?%[ ]of\b")
_PERCENT = re.compile(r"([0-9][0-9.]{0,30})[ ]?%(?=[ ]*(?:[)*]|$))")  # elsewhere it is the rest of a division
CONSTANTS = {"pi": math.pi, "e": math.e}


@tool(name="Calculator", form="sum")
async def calculator(expression: str) -> str:
    """Evaluate an arithmetic expression such as (3 + 4) * 2 ** 5 and produce its value.

    Knows + - * / // % **, brackets, pi, e, sqrt, log, exp, round, min, max and the like.
    """
    value = evaluate(expression)
    return str(int(value)) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else repr(value)


def evaluate(expression: str) -> Number:
    """The value of an expression. Raises ToolError if it is none, or too large."""
    text = re.sub(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))", "", expression.strip().rstrip("=?. "))
    text = _PERCENT_OF.sub(r"(\1/100)*", text)
    text = _PERCENT.sub(r"(\1/100)", text)
    text = text.replace("^", "**").replace("×", "*").replace("÷", "/").replace("−", "-").lstrip("$€£ ")
    if len(text) > LONGEST:
        raise ToolError(f"the expression is longer than {LONGEST} characters")
    try:
        return _value(ast.parse(text, mode="eval").body)
    except SyntaxError:
        raise ToolError(f"{expression.strip()!r:.80} cannot be calculated: {_KNOWS}") from None
    except (ValueError, TypeError, OverflowError, RecursionError, MemoryError) as e:
        raise ToolError(f"{expression.strip()!r:.80} cannot be calculated: {e}") from None
    except ZeroDivisionError:
        raise ToolError(f"{expression.strip()!r:.80} divides by zero") from None


def _value(node: ast.expr) -> Number:
    value = _bounded(_compute(node))
    if abs(value) > LARGEST:
        raise ValueError("too large")
    return value


def _bounded(value: Number) -> Number:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError("not a finite number")
    return value


def _compute(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.Name(id=name) if name in CONSTANTS:
            return CONSTANTS[name]
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as op, operand=operand):
            return -_value(operand) if isinstance(op, ast.USub) else _value(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_value(left), _value(right))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return OPERATORS[type(op)](_value(left), _value(right))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in FUNCTIONS:
            return FUNCTIONS[name](*(_value(a) for a in arguments))
    raise ValueError(_KNOWS)


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(base, int) and abs(base) > 1 and exponent * math.log10(abs(base)) > math.log10(LARGEST):
        raise ValueError("too large")  # before it is computed: 9**9**9 would take all memory
    result = base**exponent
    if isinstance(result, complex):
        raise ValueError("the root of a negative number")
    return result
