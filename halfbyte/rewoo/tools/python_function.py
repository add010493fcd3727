"""PythonFunction: any function of the program that runs the plan, as a tool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from halfbyte.rewoo.tool import make_tool

if TYPE_CHECKING:
    from collections.abc import Callable

    from halfbyte.rewoo.tool import Tool


def python_function(function: Callable[..., Any], **options: Any) -> Tool:
    """A tool of a function of one argument, async or not; options are those of `Tool`.

    Unless told otherwise its results are not cached: it may do more than answer. One that is not async runs in a
    thread, which goes on until it returns even if the run is cancelled or its time is over: prefer async.
    """
    return make_tool(function, **{"cacheable": False, **options})
