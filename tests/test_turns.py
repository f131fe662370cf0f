"""Fair turns: nobody starves, shares are by weight, and no flow fills the room."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.turns import Place, Turns

FLOWS = st.sampled_from("abcd")
PATHS = st.tuples(FLOWS, st.sampled_from(["x", "y"]))
WEIGHTS = st.fixed_dictionaries({name: st.sampled_from([0.5, 1.0, 2.0, 3.0]) for name in "abcd"})
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), PATHS),
        st.tuples(st.just("pop"), st.none()),
        st.tuples(st.just("leave"), st.integers(0, 30)),
    ),
    max_size=80,
)


@given(ACTIONS, st.integers(0, 12), WEIGHTS)
def test_whatever_happens_the_queue_holds_exactly_who_waits_in_order(
    actions: list[tuple[str, object]], room: int, weights: dict[str, float]
) -> None:
    turns: Turns[int] = Turns(room, weights.__getitem__)
    waiting: list[Place[int]] = []
    for number, (what, value) in enumerate(actions):
        if what == "put":
            assert isinstance(value, tuple)
            full = len(turns) == room
            place, gone = turns.put(value, number)
            waiting.append(place)
            assert (gone is not None) == full
            if gone is not None:
                most = max(
                    sum(w.path[0] == name for w in waiting) / weight
                    for name, weight in weights.items()
                )
                lost = gone.path[0]
                assert sum(w.path[0] == lost for w in waiting) / weights[lost] == most
                waiting.remove(gone)
        elif what == "pop" and waiting:
            # Work conserving: as long as anybody waits, somebody is served ...
            served = turns.pop()
            # ... and in a flow who came first.
            assert served is next(w for w in waiting if w.path == served.path)
            waiting.remove(served)
        elif what == "leave" and waiting:
            assert isinstance(value, int)
            place = waiting.pop(value % len(waiting))
            assert turns.remove(place)
            assert not turns.remove(place)
        assert len(turns) == len(waiting) <= room
        for name in "abcd":
            assert turns.waiting(name) == sum(w.path[0] == name for w in waiting)
        assert turns.flows == len({w.path[0] for w in waiting})
    while waiting:
        waiting.remove(turns.pop())
    with pytest.raises(IndexError):
        turns.pop()


@given(WEIGHTS, st.integers(1, 200))
def test_flows_that_always_wait_are_served_by_their_weights(
    weights: dict[str, float], count: int
) -> None:
    turns: Turns[int] = Turns(10_000, weights.__getitem__)
    for name in "abcd":
        for number in range(count):
            turns.put((name, ""), number)
    served: Counter[str] = Counter()
    for _ in range(count):
        served[turns.pop().path[0]] += 1
        # Goyal et al., theorem 1: the shares of two flows differ by an item of each at most.
        for one in "abcd":
            for other in "abcd":
                apart = served[one] / weights[one] - served[other] / weights[other]
                assert apart <= 1 / weights[one] + 1 / weights[other] + 1e-9


@given(st.integers(1, 300), st.integers(0, 50), st.lists(FLOWS, max_size=3, unique=True))
def test_a_newcomer_waits_for_one_turn_of_each_other_flow_however_much_waits(
    count: int, served: int, others: list[str]
) -> None:
    turns: Turns[int] = Turns(10_000)
    for name in others or ["a"]:
        for number in range(count):
            turns.put((name, ""), number)
    for _ in range(min(served, count - 1)):
        turns.pop()
    turns.put(("new", ""), 0)
    first = [turns.pop().path[0] for _ in range(min(len(turns), 5))]
    assert "new" in first[: len(others or ["a"]) + 1]


def test_who_asks_one_after_another_gains_nothing_beyond_the_weight() -> None:
    turns: Turns[int] = Turns(1000, {"half": 0.5, "whole": 1.0}.__getitem__)
    served: defaultdict[str, int] = defaultdict(int)
    for number in range(200):
        turns.put(("whole", ""), number)
    for number in range(150):
        if not turns.waiting("half"):
            turns.put(("half", ""), number)
        served[turns.pop().path[0]] += 1
    assert served["half"] == pytest.approx(50, abs=2)


def test_collections_of_a_caller_take_turns_within_the_caller_s_share() -> None:
    turns: Turns[int] = Turns(1000)
    for number in range(30):
        turns.put(("one", "big"), number)
        turns.put(("other", "its"), number)
    turns.put(("one", "small"), 0)
    first = [turns.pop().path for _ in range(8)]
    assert ("one", "small") in first[:4]
    assert sum(path[0] == "other" for path in first) == 4


def test_a_full_room_lets_the_newcomer_in_and_the_one_who_filled_it_gives_way() -> None:
    turns: Turns[int] = Turns(3)
    places = [turns.put(("loud", ""), number)[0] for number in range(3)]
    assert turns.put(("loud", ""), 3)[1] is not places[2]
    assert turns.put(("new", ""), 4)[1] is places[2]
    # Who has no more than others loses nothing to them.
    again, gone = turns.put(("third", ""), 5)
    assert gone is places[1]
    assert turns.put(("fourth", ""), 6)[1] is not again


def test_flows_that_come_and_go_are_forgotten() -> None:
    turns: Turns[int] = Turns(10_000)
    turns.put(("stays", ""), 0)
    turns.put(("stays", ""), 1)
    for number in range(3000):
        turns.put((str(number), ""), number)
        turns.pop()
    assert len(turns._root.finished) <= 1000  # pyright: ignore[reportPrivateUsage]
