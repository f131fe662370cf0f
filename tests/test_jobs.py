"""The queue: who gets what next, for how long, and when it is given up."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ingest.catalog import Catalog, StageResult
from ingest.database import Database
from ingest.failures import Failure, classify
from ingest.jobs import FOLDER, PERSON, Jobs
from pageglass.errors import JobConflict, JobNotFound, LimitExceeded, StoreUnreachable
from pageglass.settings import IngestSettings
from tests.tiny import page

DAY = 86_400.0


class Queue:
    """Jobs over an empty catalog, and a clock to set."""

    def __init__(self) -> None:
        database = Database(Path(":memory:"))
        settings = IngestSettings(
            attempts=3, backoff_seconds=10, lease_seconds=60, weights={"heavy": 2.0}
        )
        self.now = 1e9
        self.catalog = Catalog(database)
        self.jobs = Jobs(database, settings, clock=lambda: self.now, jitter=lambda: 0.5)

    def put(
        self, name: str, priority: int = FOLDER, collection: str = "c", uploader: str | None = None
    ) -> str:
        id = self.catalog.enqueue(
            collection=collection, sha256=name, source=name, name=name
        ).document.id
        self.jobs.add(id, priority, uploader)
        self.now += 0.001
        return id


@pytest.fixture
def queue() -> Queue:
    return Queue()


def test_what_a_person_adds_goes_before_a_folder_s_backlog_else_first_come(queue: Queue) -> None:
    first, second = queue.put("first"), queue.put("second")
    urgent = queue.put("urgent", PERSON)
    assert [queue.jobs.claim("w") for _ in range(4)] == [urgent, first, second, None]


def test_a_document_has_one_job_however_often_it_comes(queue: Queue) -> None:
    id = queue.put("one")
    queue.put("one", PERSON)
    assert queue.jobs.claim("w") == id
    queue.put("one")
    assert queue.jobs.claim("other") is None
    assert queue.jobs.get(id).state == "running"
    assert queue.jobs.get(id).priority == PERSON


def test_a_worker_that_gives_no_sign_loses_its_job_to_another(queue: Queue) -> None:
    id = queue.put("one")
    assert queue.jobs.claim("slow") == id
    queue.now += 50
    assert queue.jobs.keep(id, "slow")
    queue.now += 50
    assert queue.jobs.claim("other") is None
    queue.now += 11
    assert queue.jobs.claim("other") == id
    assert not queue.jobs.keep(id, "slow")
    assert queue.jobs.keep(id, "other")


def test_attempts_come_ever_later_and_end_as_a_dead_letter(queue: Queue) -> None:
    id = queue.put("one")
    failure = Failure("transient", "the cat sat on it")
    waits: list[float] = []
    for _ in range(2):
        assert queue.jobs.claim("w") == id
        assert queue.jobs.put_back(id, failure)
        waits.append(queue.jobs.get(id).run_after - queue.now)
        assert queue.jobs.claim("w") is None
        queue.now = queue.jobs.get(id).run_after
    assert waits == [pytest.approx(10), pytest.approx(20)]
    assert queue.jobs.claim("w") == id
    assert not queue.jobs.put_back(id, failure)
    queue.jobs.bury(id, failure.reason)
    dead = queue.jobs.get(id)
    assert (dead.state, dead.reason, dead.attempts) == ("dead", "the cat sat on it", 3)


def test_waits_have_a_longest(queue: Queue) -> None:
    id = queue.put("one")
    for _ in range(40):
        queue.jobs.claim("w")
        queue.jobs.put_back(id, Failure("outage", "no disk"))
        job = queue.jobs.get(id)
        assert 0 < job.run_after - queue.now <= 3600 * 1.25
        queue.now = job.run_after
    # However long an outage lasts, it is not the document's fault.
    assert queue.jobs.claim("w") == id
    assert queue.jobs.attempts(id) == 1


def test_progress_makes_attempts_count_anew(queue: Queue) -> None:
    id = queue.put("one")
    for _ in range(9):
        assert queue.jobs.claim("w") == id
        queue.jobs.progressed(id)
        assert queue.jobs.put_back(id, Failure("transient", "again"))
        queue.now += 100


def test_a_clock_set_back_or_forward_starves_nothing(queue: Queue) -> None:
    waiting, running = queue.put("waiting"), queue.put("running")
    assert queue.jobs.claim("w") == waiting
    queue.jobs.put_back(waiting, Failure("transient", "later"))
    assert queue.jobs.claim("w") == running
    queue.now -= DAY
    assert {queue.jobs.claim("v"), queue.jobs.claim("v")} == {waiting, running}
    queue.now += 2 * DAY
    # Its lease looks over; it goes to another, and who had it is told so.
    assert queue.jobs.claim("u") in (waiting, running)
    assert not all(queue.jobs.keep(id, "v") for id in (waiting, running))


def test_a_batch_is_filled_up_only_if_there_is_enough_for_all(queue: Queue) -> None:
    for number in range(3):
        queue.put(str(number))
    assert queue.jobs.claim("w", leave=2) is not None
    assert queue.jobs.claim("w", leave=2) is None
    assert queue.jobs.claim("w") is not None


def test_what_is_cancelled_stops_and_can_be_taken_up_again(queue: Queue) -> None:
    id = queue.put("one")
    assert queue.jobs.claim("w") == id
    queue.jobs.cancel(id)
    assert not queue.jobs.keep(id, "w")
    assert queue.catalog.document(id).state == "failed"
    assert "a retry" in (queue.catalog.document(id).reason or "")
    with pytest.raises(JobConflict):
        queue.jobs.cancel(id)
    queue.jobs.retry(id)
    assert queue.catalog.document(id).state == "queued"
    assert queue.jobs.claim("w") == id
    with pytest.raises(JobConflict, match="in work"):
        queue.jobs.retry(id)
    with pytest.raises(JobNotFound):
        queue.jobs.cancel("nobody")


def test_retry_undoes_failed_stages_and_words_that_were_not_read(queue: Queue) -> None:
    id = queue.put("one")
    done = [StageResult(i, s, "done") for i in range(3) for s in ("read", "ocr", "text")]
    queue.catalog.record(id, [page("a", document=id)], done)
    queue.catalog.record(id, [], [StageResult(1, "ocr", "failed", "no")])
    queue.catalog.record(id, [], [StageResult(2, "text", "failed", "no")])
    queue.catalog.settle(id, "indexed", "2 pages")
    queue.jobs.finish(id)
    queue.jobs.retry(id)
    left = {(s.page_index, s.stage) for s in queue.catalog.stages(id)}
    assert left == {(0, "read"), (0, "ocr"), (0, "text"), (2, "read"), (2, "ocr")}
    assert queue.catalog.document(id).state == "indexed"
    queue.jobs.claim("w")
    queue.jobs.finish(id)
    with pytest.raises(JobConflict, match="lacks nothing"):
        queue.jobs.retry(id)


def test_documents_that_lack_a_new_stage_are_queued_and_stay_indexed(queue: Queue) -> None:
    whole, partly = queue.put("whole"), queue.put("partly")
    for id in (whole, partly):
        queue.jobs.claim("w")
        queue.catalog.record(id, [page("one", document=id)], [StageResult(0, "text", "done")])
        queue.catalog.settle(id, "indexed", None)
        queue.jobs.finish(id)
    queue.catalog.record(whole, [], [StageResult(0, "visual", "done")])
    assert queue.jobs.add_lacking(["text"]) == 0
    assert queue.jobs.add_lacking(["text", "visual"]) == 1
    assert queue.jobs.add_lacking(["text", "visual"]) == 0
    assert queue.jobs.live() == 1
    # Back to where nothing is lacking, and forward again.
    queue.catalog.begin(partly, 1)
    queue.catalog.record(partly, [], [StageResult(0, "read", "done")])
    assert queue.jobs.add_lacking(["text"]) == 0
    assert queue.jobs.live() == 0
    assert queue.jobs.add_lacking(["text", "visual"]) == 1
    assert queue.jobs.claim("w") == partly
    assert queue.catalog.document(partly).state == "indexed"


def test_what_a_dead_process_left_running_is_queued_again(queue: Queue) -> None:
    id = queue.put("one")
    assert queue.jobs.claim("w") == id
    assert queue.jobs.recover() == 1
    assert queue.catalog.document(id).state == "queued"
    assert queue.jobs.claim("v") == id


def test_pages_left_are_guessed_for_documents_that_were_not_opened(queue: Queue) -> None:
    known = queue.put("known")
    queue.catalog.begin(known, 10)
    queue.catalog.record(known, [page("a", document=known)], [])
    assert queue.jobs.pages_left() == 9
    queue.put("unknown")
    assert queue.jobs.pages_left() == 19


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (LimitExceeded("too long"), "permanent"),
        (StoreUnreachable("no answer"), "outage"),
        (OSError(28, "No space left on device"), "outage"),
        (OSError(13, "Permission denied"), "transient"),
        (MemoryError(), "transient"),
        (RuntimeError("whatever"), "transient"),
    ],
)
def test_failures_are_told_apart(error: Exception, kind: str) -> None:
    failure = classify(error)
    assert failure.kind == kind
    assert failure.reason


# Fair turns


def served(queue: Queue, count: int, pages: int = 1) -> list[str]:
    """Work the next documents off; their collections and uploaders."""
    turns: list[str] = []
    for _ in range(count):
        id = queue.jobs.claim("w")
        assert id is not None
        queue.jobs.progressed(id, pages)
        queue.jobs.finish(id)
        name = queue.catalog.document(id).names[0]
        turns.append(name.partition("/")[0])
    return turns


def test_a_collection_s_first_file_does_not_wait_for_another_s_backlog(queue: Queue) -> None:
    for number in range(30):
        queue.put(f"big/{number}", collection="big")
    served(queue, 5, pages=20)
    queue.put("small/1", collection="small")
    assert served(queue, 2)[0] == "small"
    # What a person waits for goes before, whosever turn it is.
    queue.put("small/2", collection="small")
    queue.put("big/urgent", PERSON, collection="big")
    assert served(queue, 2) == ["big", "small"]


def test_uploaders_take_turns_within_a_collection_and_get_no_more_by_being_many(
    queue: Queue,
) -> None:
    for number in range(20):
        queue.put(f"one/{number}", uploader="k1")
        queue.put(f"other/{number}", uploader="k2")
        queue.put(f"third/{number}", collection="d", uploader="k3")
    assert sorted(served(queue, 8)) == ["one"] * 2 + ["other"] * 2 + ["third"] * 4


def test_a_retry_is_its_uploader_s_turn(queue: Queue) -> None:
    id = queue.put("one", uploader="k1")
    queue.jobs.bury(id, "no")
    queue.jobs.retry(id)
    queue.jobs.claim("w")
    rows = queue.jobs._db.connection.execute(  # pyright: ignore[reportPrivateUsage]
        "SELECT flow FROM turns WHERE within = 'c'"
    )
    assert [row["flow"] for row in rows] == ["k1"]


@given(st.lists(st.integers(1, 20), min_size=60, max_size=60))
@settings(max_examples=20, deadline=None)
def test_collections_that_always_wait_get_pages_by_their_weights(lengths: list[int]) -> None:
    queue = Queue()
    for number in range(60):
        for collection in ("heavy", "light"):
            queue.put(f"{collection}/{number}", collection=collection)
    pages = {"heavy": 0, "light": 0}
    for length in lengths:
        (collection,) = served(queue, 1, pages=length)
        pages[collection] += length + 1
        # Goyal et al., theorem 1: apart by the longest document of each at most.
        assert abs(pages["heavy"] / 2 - pages["light"]) <= 21 / 2 + 21


def test_a_long_document_makes_way_after_its_turn_and_goes_on_later(queue: Queue) -> None:
    long = queue.put("long", collection="big")
    assert queue.jobs.claim("w") == long
    queue.jobs.progressed(long, 100)
    assert not queue.jobs.turn_is_over(long, 32)  # Nobody else waits.
    queue.put("also big", collection="big")
    assert not queue.jobs.turn_is_over(long, 32)  # Nobody of another flow.
    short = queue.put("short", collection="small")
    assert queue.jobs.turn_is_over(long, 32)
    assert not queue.jobs.turn_is_over(long, 200)
    assert queue.jobs.put_back(long, None)
    assert queue.jobs.claim("w") == short
    queue.jobs.progressed(short, 1)
    queue.jobs.finish(short)
    # First come, first served among those of the collection.
    assert queue.jobs.claim("w") == long
    other = queue.put("same collection", collection="big", uploader="k9")
    queue.jobs.progressed(long, 40)
    assert queue.jobs.turn_is_over(long, 32)
    assert queue.jobs.put_back(long, None)
    assert queue.jobs.claim("w") == other


WORKERS = st.sampled_from(["v", "w"])
DOCUMENTS = st.sampled_from("abc")


class QueueMachine(RuleBasedStateMachine):
    """Whatever workers, people, clocks and crashes do: a document is one worker's at a time, and
    none that is to be indexed is out of the queue."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = Queue()
        # Who may believe to work on what, and until when nobody else may have it.
        self.held: dict[str, tuple[str, float]] = {}
        self.jumped = False

    @rule(name=DOCUMENTS, priority=st.sampled_from([FOLDER, PERSON]))
    def comes(self, name: str, priority: int) -> None:
        for id, _ in self.queue.catalog.removing():
            self.queue.catalog.delete(id)
        self.queue.put(name, priority)

    @rule(worker=WORKERS)
    def is_claimed(self, worker: str) -> None:
        due = self.queue.jobs.due()
        id = self.queue.jobs.claim(worker)
        if id is None:
            assert due == 0
            return
        if id in self.held and not self.jumped:
            assert self.queue.now > self.held[id][1], "it was another's"
        self.held[id] = (worker, self.queue.now + 60)
        assert self.queue.jobs.keep(id, worker)
        assert not self.queue.jobs.keep(id, "v" if worker == "w" else "w")

    @rule(data=st.data())
    @precondition(lambda self: self.held)
    def gives_a_sign(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.held)))
        worker, _ = self.held[id]
        if self.queue.jobs.keep(id, worker):
            self.held[id] = (worker, self.queue.now + 60)
        else:
            del self.held[id]

    @rule(data=st.data(), how=st.sampled_from(["done", "dead", "transient", "outage", "left"]))
    @precondition(lambda self: self.held)
    def ends(self, data: st.DataObject, how: str) -> None:
        id = data.draw(st.sampled_from(sorted(self.held)))
        worker, _ = self.held.pop(id)
        jobs, catalog = self.queue.jobs, self.queue.catalog
        if not jobs.keep(id, worker):
            return
        before = jobs.attempts(id)
        if how == "done":
            catalog.settle(id, "indexed", None)
            jobs.finish(id)
        elif how in ("outage", "left"):
            failure = Failure("outage", "no disk") if how == "outage" else None
            assert jobs.put_back(id, failure)
            assert jobs.attempts(id) == before - 1
        elif how == "dead" or not jobs.put_back(id, Failure("transient", "no")):
            assert how == "dead" or before >= 3
            catalog.settle(id, "failed", "no")
            jobs.bury(id, "no")

    @rule(name=DOCUMENTS, what=st.sampled_from(["cancel", "retry", "remove"]))
    def a_person_decides(self, name: str, what: str) -> None:
        named = {d.name: d.id for d in self.queue.catalog.documents()}
        if name not in named:
            return
        if what == "remove":
            self.queue.catalog.mark_removed(named[name])
            self.held.pop(named[name], None)
            return
        with suppress(JobConflict):
            (self.queue.jobs.cancel if what == "cancel" else self.queue.jobs.retry)(named[name])
            self.held.pop(named[name], None)

    @rule(seconds=st.sampled_from([1, 30, 61, 3600]))
    def time_passes(self, seconds: float) -> None:
        self.queue.now += seconds

    @rule(days=st.sampled_from([-1, 1]))
    def the_clock_is_set(self, days: int) -> None:
        self.queue.now += days * DAY
        self.jumped = True

    @rule()
    def the_process_dies(self) -> None:
        self.queue.jobs.recover()
        assert self.queue.jobs.running() == 0
        self.held.clear()

    @invariant()
    def nothing_is_lost(self) -> None:
        assert self.queue.catalog.integrity() == []
        for document in self.queue.catalog.documents():
            live = self.queue.jobs.get(document.id).state in ("queued", "running")
            assert not (live and document.state == "failed"), "given up, and yet in the queue"

    def teardown(self) -> None:
        """All that waits is claimed in the end, whatever was done to the clock."""
        self.queue.jobs.recover()
        for _ in range(2):
            self.queue.now += 2 * 3600
            while (id := self.queue.jobs.claim("last")) is not None:
                self.queue.catalog.settle(id, "indexed", None)
                self.queue.jobs.finish(id)
        assert self.queue.jobs.live() == 0


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
