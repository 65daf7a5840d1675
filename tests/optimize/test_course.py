"""What happened when, from the records of a search."""

import pytest

from nnlo.errors import ConfigError
from nnlo.optimize.course import Course, Stretch

SPACE = [{"name": "x", "kind": "real", "low": 0.0, "high": 1.0, "log": False}]
HEADER = {"event": "header", "at": 100.0, "space": SPACE, "merit": "val_loss"}


def asked(at, trial):
    return {
        "event": "asked", "at": at, "trial": trial, "params": {"x": 0.5}, "told": 0, "running": []
    }  # fmt: skip


def started(at, trial, block, epoch=0):
    about = {"attempt": 1, "from_epoch": epoch, "to_epoch": 3}
    return {"event": "started", "at": at, "trial": trial, "block": block, **about}


def reported(at, trial, verdict, merit=0.5):
    about = {"epoch": 1, "metrics": {}, "saved": True, "to_epoch": 3}
    return {"event": "reported", "at": at, "trial": trial, "merit": merit, **about} | {
        "verdict": verdict
    }


def finished(at, trial, merit=0.25):
    about = {"merits": [], "metrics": {}, "epochs": 3, "seconds": 1.0, "files": {}}
    return {"event": "finished", "at": at, "trial": trial, "merit": merit, **about}


def failed(at, trial):
    about = {"reason": "no such layer", "kind": "error", "attempt": 1}
    return {"event": "failed", "at": at, "trial": trial, **about}


def lost(at, trial, block):
    return {"event": "lost", "at": at, "trial": trial, "block": block, "reason": "died"}


def test_a_stretch_goes_from_start_to_end_and_goes_on_after_a_pause():
    course = Course(
        [
            HEADER,
            asked(100, 0),
            started(100, 0, 1),
            reported(101, 0, "continue"),
            reported(102, 0, "pause"),
            started(104, 0, 2, 1),
            finished(107, 0),
        ]
    )
    assert course.stretches == [Stretch(1, 0, 0, 2, "paused"), Stretch(2, 0, 4, 7, "finished")]
    assert [(one.at, one.merit, one.is_final) for one in course.results] == [
        (2, 0.5, False),
        (7, 0.25, True),
    ]


def test_time_between_a_kill_and_the_restore_does_not_count():
    course = Course(
        [
            HEADER,
            asked(100, 0),
            started(101, 0, 1),
            asked(110, 1),
            {"event": "restored", "at": 9999.0},
            started(9999, 0, 1),
            failed(10009, 0),
        ]
    )
    assert course.stretches == [Stretch(1, 0, 1, 10, "killed"), Stretch(1, 0, 10, 20, "failed")]
    assert course.sessions == [(0, 10), (10, 20)]
    assert course.utilisation == pytest.approx(19 / 20)


def test_a_lost_block_and_one_still_at_work_end_their_stretches():
    course = Course(
        [
            HEADER,
            *(asked(100, i) for i in range(2)),
            started(100, 0, 1),
            started(100, 1, 2),
            lost(105, 0, 1),
            reported(110, 1, "continue"),
        ]
    )
    assert [one.outcome for one in course.stretches] == ["lost", "running"]
    assert course.utilisation == pytest.approx(15 / 20)


def test_a_suspended_stretch_ends_there_and_its_result_still_counts():
    about = {"event": "suspended", "at": 104, "trial": 0, "block": 1, "reason": "a signal"}
    course = Course([HEADER, asked(100, 0), started(100, 0, 1), about, finished(105, 0)])
    assert course.stretches == [Stretch(1, 0, 0, 4, "suspended")]
    assert [one.at for one in course.results] == [5]


def test_a_clock_that_was_set_back_never_lets_time_fall():
    course = Course([HEADER, asked(50, 0), started(60, 0, 1), finished(70, 0)])
    assert course.seconds == [0, 0, 10, 20]


def test_a_header_alone_is_an_empty_search():
    course = Course([HEADER])
    assert (course.trials, course.stretches, course.utilisation) == ([], [], 0.0)


@pytest.mark.parametrize("records", [[], [{"event": "header", "at": 1.0}], [asked(1, 0)]])
def test_records_without_a_space_are_no_search(records):
    with pytest.raises(ConfigError, match="must be made of a log with a header"):
        Course(records)
