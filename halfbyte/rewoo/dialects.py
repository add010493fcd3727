"""How lines of a plan begin, and how evidence is named: the card's form, `#E1`, and what models make of them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from halfbyte.rewoo.plan import Places, Problem, Reference

if TYPE_CHECKING:
    from halfbyte.rewoo.plan import Dialect

LONGEST_NUMBER = 9  # digits; more cannot be meant

# A label at the head of a step. The colons may be missing; the digits may stand in brackets, as in the card's prompt.
_LABEL = r"(?P<label>:?evidence(?P<o>\[)?(?P<card>[0-9]+)(?(o)\]):?|\#E(?P<hash>[0-9]+))"
_MARKS = r"(?:\*\*|`)?"  # Markdown round a label, which some models write
STEP = re.compile(_MARKS + _LABEL + _MARKS + r"[ \t]*=[ \t]*(?P<tool>[^\W\d][\w.-]*)[ \t]*\[", re.IGNORECASE)
# What can only be meant as a step: a label and an equals sign.
STEP_LIKE = re.compile(_MARKS + _LABEL + _MARKS + r"[ \t]*=", re.IGNORECASE)
# A step that begins within a line, as the paper prints it. The colon in front is not optional there.
_INSIDE = r"(?<!\w)(?=[:#])" + _LABEL + r"[ \t]*=[ \t]*[^\W\d][\w.-]*[ \t]*\["
STEP_INSIDE = re.compile(_INSIDE, re.IGNORECASE)
# What may come on the same line as the end of a call: a plan that has lost its line ends.
HEADER_INSIDE = re.compile(r"(?<!\w)(?-i:Plan:|(?:Final )?[Aa]nswer:|Solver:)|" + _INSIDE, re.IGNORECASE)
# What ends an argument that is open, at the beginning of a line.
HEADER_IN_ARGUMENT = re.compile(r"[ \t]*(?:Plan:|(?P<answer>(?:Final )?[Aa]nswer:))")
NOTHING_MORE = re.compile(r"[ \t.;,`*]*$")
PLAN = re.compile(r"(?:#{1,6}[ \t]+|\*\*)?Plan(?:[ \t]*#?[0-9]+)?(?:\*\*)?[ \t]*:(?:\*\*)?[ \t]*", re.IGNORECASE)
ANSWER = re.compile(r"(?:#{1,6}[ \t]+|\*\*)?(?:Final[ \t]+)?Answer(?:\*\*)?[ \t]*:(?:\*\*)?[ \t]*", re.IGNORECASE)
SOLVER = re.compile(r"(?:\*\*)?Solver[ \t]*(?::(?:\*\*)?|(?=\[))[ \t]*", re.IGNORECASE)
QUESTION = re.compile(r"(?:Question|USER|Task)[ \t]*:", re.IGNORECASE)  # a model that talks on, to itself
FENCES = ("```", "~~~")

_REFERENCE = {
    "evidence": re.compile(r":evidence(?:\[(?P<b>[0-9]+)\]|(?P<n>[0-9]+))(?P<end>:|(?!\w))", re.IGNORECASE),
    "hash": re.compile(r"(?<!\w)#E(?P<n>[0-9]+)(?P<b>)(?!\w)", re.IGNORECASE),
}
_NEARLY = {
    "evidence": re.compile(r"#E[0-9]+(?!\w)|(?<![:\w])evidence[0-9]+(?!\w)", re.IGNORECASE),
    "hash": re.compile(r":evidence[0-9]+:?", re.IGNORECASE),
}


def label_of(dialect: Dialect, number: int) -> str:
    """A step's label in its proper form."""
    return f":evidence{number}:" if dialect == "evidence" else f"#E{number}"


class Notes:
    """Problems and warnings, as they are found."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []

    def problem(self, at: tuple[int, int], message: str) -> None:
        """Note what makes the plan impossible to run."""
        self.problems.append(Problem(*at, message))

    def warn(self, at: tuple[int, int], message: str) -> None:
        """Note what was put right."""
        self.warnings.append(Problem(*at, message))


def find_references(
    text: str, at: tuple[int, int], dialect: Dialect, notes: Notes
) -> tuple[str, tuple[Reference, ...]]:
    """An argument or answer that begins at `at` with its references in their proper form, and these references.

    What is odd about them goes to `notes`.
    """
    found: list[Reference] = []
    pieces: list[str] = []
    places = Places(text, at)
    length = end = 0  # of the proper text so far; of what was read
    for match in _REFERENCE[dialect].finditer(text):
        digits, where = match["n"] or match["b"], places.at(match.start())
        if len(digits) > LONGEST_NUMBER:
            notes.problem(where, f"{match[0]!r:.40} has too long a number")
            continue
        proper = label_of(dialect, int(digits))
        if match[0] != proper:
            notes.warn(where, f"{match[0]!r} is read as {proper}")
        pieces += [text[end : match.start()], proper]
        start = length + match.start() - end
        length, end = start + len(proper), match.end()
        found.append(Reference(int(digits), start, length, *where))
    if "#" in text or text.lower().count("evidence") > (len(found) if dialect == "evidence" else 0):
        _warn_of_near_misses(text, at, dialect, notes)
    return "".join([*pieces, text[end:]]) if pieces else text, tuple(found)


def _warn_of_near_misses(text: str, at: tuple[int, int], dialect: Dialect, notes: Notes) -> None:
    places = Places(text, at)
    for match in _NEARLY[dialect].finditer(text):
        notes.warn(places.at(match.start()), f"{match[0]!r:.40} is not a reference in this plan; it is left as it is")
