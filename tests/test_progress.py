"""Following the work: what moved is said, and said once."""

from __future__ import annotations

from dataclasses import replace

from api.progress import JobMoves
from pageglass.types import Job

QUEUED = Job(
    document_id="a",
    collection="c",
    name="a.pdf",
    state="queued",
    priority=0,
    attempts=0,
    pages=0,
    pages_done=0,
    reason=None,
    run_after=0,
    queued_at=100,
    started_at=None,
    ended_at=None,
    worker=None,
    pages_per_second=None,
)
RUNNING = replace(QUEUED, state="running", pages=9, pages_done=3, pages_per_second=1.0)
DONE = replace(QUEUED, state="done", pages=9, pages_done=9, ended_at=120)


def test_a_job_is_told_of_when_it_moves_and_not_when_only_time_passes() -> None:
    moves = JobMoves(since=100)
    assert moves.among([], [QUEUED]) == [QUEUED]
    assert moves.among([], [QUEUED]) == []
    assert moves.among([], [RUNNING]) == [RUNNING]
    assert moves.among([], [replace(RUNNING, pages_per_second=0.9)]) == []
    further = replace(RUNNING, pages_done=4)
    assert moves.among([], [further]) == [further]
    waiting = replace(QUEUED, run_after=150, reason="the disk is full")
    assert moves.among([], [waiting]) == [waiting]
    assert moves.among([DONE], []) == [DONE]
    assert moves.among([DONE], []) == []


def test_what_ended_between_two_looks_is_told_oldest_first_and_history_is_not() -> None:
    moves = JobMoves(since=100)
    old = replace(DONE, document_id="old", ended_at=99)
    later = replace(DONE, document_id="b", ended_at=121)
    assert moves.among([later, DONE, old], []) == [DONE, later]
    assert moves.among([later, DONE, old], []) == []


def test_a_job_that_is_tried_again_is_told_of_again() -> None:
    moves = JobMoves(since=100)
    assert moves.among([DONE], []) == [DONE]
    assert moves.among([], [QUEUED]) == [QUEUED]
    again = replace(DONE, ended_at=130)
    assert moves.among([again], []) == [again]
