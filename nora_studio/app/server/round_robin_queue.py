"""A queue in which visitors take turns, so that many requests of one do not delay the others."""

import itertools
from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class RoundRobinQueue(Generic[Item]):
    """Waiting items of visitors; next is the item whose visitor's last turn is longest ago."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, deque[Item]] = {}
        self._turns: dict[Hashable, int] = {}
        self._clock = itertools.count(1)

    def put(self, visitor: Hashable, item: Item) -> None:
        """Add an item after the visitor's others."""
        self._waiting.setdefault(visitor, deque()).append(item)

    def order(self) -> list[Item]:
        """Return all waiting items in the order of their turns."""
        items = {visitor: deque(own) for visitor, own in self._waiting.items()}
        turns, ordered = dict(self._turns), []
        while items:
            visitor = min(items, key=lambda one: turns.get(one, 0))
            ordered.append(items[visitor].popleft())
            turns[visitor] = next(self._clock)
            if not items[visitor]:
                del items[visitor]
        return ordered

    def serve(self, visitor: Hashable, item: Item) -> None:
        """Remove an item and count it as its visitor's turn."""
        self.remove(visitor, item)
        self.count_turn(visitor)

    def count_turn(self, visitor: Hashable) -> None:
        """Record a turn of a visitor, later than every turn so far."""
        self._turns[visitor] = next(self._clock)

    def remove(self, visitor: Hashable, item: Item) -> None:
        """Remove an item without counting a turn."""
        self._waiting[visitor].remove(item)
        if not self._waiting[visitor]:
            del self._waiting[visitor]

    def clear(self) -> None:
        """Remove all items."""
        self._waiting.clear()
