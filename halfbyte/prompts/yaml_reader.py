"""Reads one YAML document with the place of every value, leaving types open: `no` is a text until a schema says more.

Aliases, anchors and tags are refused: an answer needs none, and aliases can blow a few lines up into gigabytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from halfbyte.prompts.tree import Node, TreeBuilder

if TYPE_CHECKING:
    from halfbyte.prompts.position import Text

_LOADER: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


def read_yaml(text: Text, document: str, offset: int) -> Node | None:
    """The tree of a document that stands at `offset` in the text; None if it is empty.

    Raises PromptError at the place of what is not valid, or not allowed here.
    """
    tree = TreeBuilder(text)
    try:
        for event in yaml.parse(document, Loader=_LOADER):
            _take(tree, event, offset)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = offset + (mark.index if mark else 0)
        raise text.error(f"not valid YAML: {error.problem or error.context}", min(place, len(text.text))) from None
    except (yaml.YAMLError, UnicodeError) as error:  # characters that YAML does not allow
        at: int = getattr(error, "position", getattr(error, "start", 0))
        raise text.error("not valid YAML: a character that is not allowed", min(offset + at, len(text.text))) from None
    return tree.root


def _take(tree: TreeBuilder, event: Any, offset: int) -> None:
    start, end = offset + event.start_mark.index, offset + event.end_mark.index
    if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
        raise tree.text.error("anchors and aliases are not allowed", start)
    if getattr(event, "tag", None):
        raise tree.text.error("tags are not allowed", start)
    if isinstance(event, yaml.ScalarEvent):
        tree.scalar(event.value, start, end, plain=not event.style)
    elif isinstance(event, yaml.MappingStartEvent):
        tree.begin("map", start)
    elif isinstance(event, yaml.SequenceStartEvent):
        tree.begin("list", start)
    elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
        tree.end(end)
