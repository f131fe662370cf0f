"""Whose turn it is: fair queueing among callers, and within a caller among collections.

Start-time fair queueing (P. Goyal, H. M. Vin, H. Cheng: "Start-time Fair Queuing: A Scheduling
Algorithm for Integrated Services Packet Switching Networks", SIGCOMM 1996), hierarchical as in its
section 3: each flow has a start tag ``S = max(v, F)``, and a finish tag ``F = S + 1 / weight`` once
one of its items was served; the least start tag is served next and becomes ``v``, the virtual time.
Several servers may take from it (SFQ(D): W. Jin, J. Chase, J. Kaur, SIGMETRICS 2004).

Who waits is in one room. Where it is full, the newest item of the flow that has most in it by its
weight gives way (P. McKenney: "Stochastic Fairness Queueing", INFOCOM 1990), so that nobody can
keep others out, and nobody is kept out of room that others leave.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

_REMEMBERED = 1000
"""Flows that have nothing waiting and whose tags are remembered; addresses could make many."""

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Place(Generic[T]):
    """A place in the queue. ``path`` names the flow, from the outermost one in."""

    path: tuple[str, ...]
    item: T


@dataclass(slots=True)
class _Flow(Generic[T]):
    """A flow that has something waiting; ``clock`` is the virtual time among its children."""

    weight: float = 1.0
    start: float = 0.0
    arrived: int = 0
    waiting: int = 0
    clock: float = 0.0
    children: dict[str, _Flow[T]] = field(default_factory=dict[str, "_Flow[T]"])
    finished: dict[str, float] = field(default_factory=dict[str, float])
    """Finish tags, later than ``clock``, of children with nothing waiting."""
    places: deque[Place[T]] = field(default_factory=deque[Place[T]])

    def forget_to_clock(self) -> None:
        """Drop tags that say nothing any more, and the oldest where there are too many."""
        self.finished = {n: tag for n, tag in self.finished.items() if tag > self.clock}
        while len(self.finished) >= _REMEMBERED:
            del self.finished[next(iter(self.finished))]


class Turns(Generic[T]):
    """A queue of at most ``room`` items that is served flow by flow. Not thread-safe."""

    def __init__(self, room: int, weight: Callable[[str], float] = lambda flow: 1.0) -> None:
        """``weight`` gives the share of an outermost flow, above 0."""
        self._room = room
        self._weight = weight
        self._root = _Flow[T]()
        self._arrivals = 0

    def __len__(self) -> int:
        return self._root.waiting

    def waiting(self, flow: str) -> int:
        """How many items of an outermost flow wait."""
        child = self._root.children.get(flow)
        return child.waiting if child is not None else 0

    @property
    def flows(self) -> int:
        """Outermost flows that have something waiting."""
        return len(self._root.children)

    def put(self, path: Sequence[str], item: T) -> tuple[Place[T], Place[T] | None]:
        """Queue an item; its place, and the place that had to go, where the room was full: that may
        be its own."""
        place = Place(tuple(path), item)
        self._arrivals += 1
        flow = self._root
        for depth, name in enumerate(place.path):
            flow.waiting += 1
            child = flow.children.get(name)
            if child is None:
                child = _Flow[T](
                    weight=self._weight(name) if depth == 0 else 1.0,
                    start=max(flow.clock, flow.finished.pop(name, 0.0)),
                    arrived=self._arrivals,
                )
                flow.children[name] = child
            flow = child
        flow.waiting += 1
        flow.places.append(place)
        if len(self) <= self._room:
            return place, None
        gone = self._newest_of_most(prefer=place)
        self.remove(gone)
        return place, gone

    def pop(self) -> Place[T]:
        """Take the item whose turn it is out of the queue; IndexError where there is none."""
        if not self._root.waiting:
            raise IndexError("nothing waits")
        flow, path = self._root, list[str]()
        while flow.children:
            name, child = min(flow.children.items(), key=lambda one: (one[1].start, one[1].arrived))
            flow.clock = child.start
            child.start += 1 / child.weight
            path.append(name)
            flow = child
        place = flow.places[0]
        self.remove(place)
        return place

    def remove(self, place: Place[T]) -> bool:
        """Leave the queue; False where the place was left already."""
        line = [self._root]
        for name in place.path:
            child = line[-1].children.get(name)
            if child is None:
                return False
            line.append(child)
        try:
            line[-1].places.remove(place)
        except ValueError:
            return False
        for flow in line:
            flow.waiting -= 1
        for flow, name in zip(line, place.path, strict=False):
            child = flow.children[name]
            if child.waiting:
                continue
            del flow.children[name]
            flow.forget_to_clock()
            if child.start > flow.clock:
                flow.finished[name] = child.start
            break
        return True

    def _newest_of_most(self, *, prefer: Place[T]) -> Place[T]:
        """The newest item of the flow with most waiting by its weight; of equals, ``prefer``'s."""
        flow, depth = self._root, 0
        while flow.children:
            own = prefer.path[depth] if depth < len(prefer.path) else None
            _, _, name = max(
                (child.waiting / child.weight, name == own, name)
                for name, child in flow.children.items()
            )
            flow, depth = flow.children[name], depth + 1
        return flow.places[-1]
