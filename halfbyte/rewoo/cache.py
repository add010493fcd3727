"""Evidence that was had before: the same tool and argument are called once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    from halfbyte.rewoo.tool import Evidence

Key = tuple[str, str]  # tool, argument with its evidence in place


class Cache:
    """The latest `entries` results. Each run has its own unless it is given one; share one to keep results."""

    def __init__(self, entries: int = 1024) -> None:
        self._entries = entries
        self._kept: OrderedDict[Key, Evidence] = OrderedDict()
        self._locks: WeakValueDictionary[Key, asyncio.Lock] = WeakValueDictionary()

    def lock(self, key: Key) -> asyncio.Lock:
        """To be held while looking and calling, so that of two equal calls the second waits for the first."""
        return self._locks.setdefault(key, asyncio.Lock())

    def get(self, key: Key) -> Evidence | None:
        """What is kept under the key."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, key: Key, evidence: Evidence) -> None:
        """Keep it; the one longest unused makes room."""
        self._kept[key] = evidence
        self._kept.move_to_end(key)
        while len(self._kept) > self._entries:
            self._kept.popitem(last=False)
