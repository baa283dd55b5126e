"""A line in which visitors take turns: who asks for much holds nobody up."""

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FairLine(Generic[Item]):
    """Things that wait, each for one visitor."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, deque[Item]] = {}
        self._served: dict[Hashable, int] = {}

    def put(self, visitor: Hashable, item: Item) -> None:
        """Stand at the end of the visitor's own line."""
        self._waiting.setdefault(visitor, deque()).append(item)

    def order(self) -> list[Item]:
        """Everything in the order of its turns: next is whose visitor was served longest ago."""
        lines = {visitor: deque(line) for visitor, line in self._waiting.items()}
        served, ordered = dict(self._served), []
        while lines:
            visitor = min(lines, key=lambda one: served.get(one, 0))
            ordered.append(lines[visitor].popleft())
            served[visitor] = max(served.values(), default=0) + 1
            if not lines[visitor]:
                del lines[visitor]
        return ordered

    def serve(self, visitor: Hashable, item: Item) -> None:
        """It has its turn now."""
        self.leave(visitor, item)
        self._served[visitor] = max(self._served.values(), default=0) + 1

    def leave(self, visitor: Hashable, item: Item) -> None:
        """It waits no longer."""
        self._waiting[visitor].remove(item)
        if not self._waiting[visitor]:
            del self._waiting[visitor]

    def clear(self) -> None:
        """Nobody waits any longer."""
        self._waiting.clear()
