"""reWOO: a plan written before anything runs, its steps run as soon as their evidence is there.

`parse_plan` reads a plan, `Executor` runs it, `halfbyte.rewoo.tools` holds tools, `tool` makes one of any function.
"""

from halfbyte.errors import BlockedURL, PlanError, RunError, ToolError, TraceError
from halfbyte.rewoo.executor import Executor, Result
from halfbyte.rewoo.gbnf import plan_gbnf
from halfbyte.rewoo.grammar import plan_grammar
from halfbyte.rewoo.limits import Limits
from halfbyte.rewoo.parser import parse_plan
from halfbyte.rewoo.plan import Plan, Problem, Step
from halfbyte.rewoo.planner import planner_prompt
from halfbyte.rewoo.reader import PlanReader
from halfbyte.rewoo.tool import Evidence, Tool, tool
from halfbyte.rewoo.trace import Trace

__all__ = [
    "BlockedURL",
    "Evidence",
    "Executor",
    "Limits",
    "Plan",
    "PlanError",
    "PlanReader",
    "Problem",
    "Result",
    "RunError",
    "Step",
    "Tool",
    "ToolError",
    "Trace",
    "TraceError",
    "parse_plan",
    "plan_gbnf",
    "plan_grammar",
    "planner_prompt",
    "tool",
]
