"""From decisions to the log, then to the blocks."""

import pytest

from nnlo.errors import CheckpointError
from nnlo.optimize.conductor import Conductor
from nnlo.optimize.coordinator import Coordinator
from nnlo.optimize.events import Idle, Interrupted, Limits
from nnlo.optimize.layout import Layout
from nnlo.optimize.optuna_mirror import Mirror
from nnlo.optimize.pruning import Asha, Never
from nnlo.optimize.searcher import make_searcher
from nnlo.optimize.study import Study, read
from nnlo.optimize.wire import Order, Outcome, PartEnd, Report, Word
from tests.optimize.acted import SPACE

DONE = PartEnd("done", merits=(0.5,), epochs=9)


class Post:
    """Remembers what was sent, and how many lines the log had then."""

    def __init__(self, log):
        self.log = log
        self.sent = []
        self.lines = []

    def _note(self, *what):
        self.sent.append(what)
        self.lines.append([record["event"] for record in read(self.log)])

    def order(self, block, order):
        self._note(block, order)

    def word(self, block, word):
        self._note(block, word)

    def dismiss(self, block):
        self._note(block, None)

    def of(self, block):
        return [message for one, message in self.sent if one == block]


class Led:
    """A conductor of two blocks, with a clock that stands still."""

    def __init__(self, folder, n_trials=4, pruner=None, **limits):
        self.study = Study.create(folder, {"model": "none"})
        self.heard = []
        self.now = 0.0
        self.conductor = Conductor(
            Layout(3),
            Coordinator(
                make_searcher("random", SPACE, 0), Limits(n_trials, **limits), pruner or Never(9)
            ),
            self.study,
            Mirror(folder / "optuna.log", "none", SPACE, ("merit",)),
            lambda record, trials: self.heard.append((record["event"], len(trials))),
            lambda: self.now,
        )
        self.post = Post(self.study.file)

    def idle(self, *blocks):
        for block in blocks:
            self.conductor.conclude(block, Outcome(), self.post)

    def report(self, block, trial, epoch, merit, attempt=1):
        report = Report(trial, attempt, 0, epoch, (merit,), {}, saved=True)
        self.conductor.report(block, report, self.post)

    def end(self, block, trial, part=DONE, attempt=1, **more):
        self.conductor.conclude(block, Outcome(trial, attempt, (part,), **more), self.post)

    @property
    def states(self):
        return [trial.state for trial in self.conductor.trials.rows]


@pytest.fixture
def led(tmp_path):
    made = []

    def make(**changes):
        made.append(Led(tmp_path / str(len(made)), **changes))
        return made[-1]

    yield make
    for one in made:
        one.study.close()


def test_a_block_that_is_there_gets_an_order(led):
    led = led()
    led.idle(1, 2)
    trials = led.conductor.trials
    assert led.post.sent == [(1, Order(0, trials[0].params)), (2, Order(1, trials[1].params))]
    assert led.conductor.task_of(2) == (1, 1)


def test_the_log_knows_before_a_block_does(led):
    led = led()
    led.idle(1)
    assert led.post.lines[0] == ["header", "asked", "started"]


def test_each_record_is_heard_once_with_the_trials_after_it(led):
    led = led()
    led.idle(1)
    assert led.heard == [("asked", 1), ("started", 1)]


def test_a_trial_that_goes_on_is_not_told_so(led):
    led = led()
    led.idle(1)
    led.report(1, 0, 1, 0.5)
    assert len(led.post.sent) == 1
    assert led.conductor.trials[0].curve == {1: 0.5}


def test_a_pause_is_told_and_the_block_gets_another_trial_once_it_has_left(led):
    led = led(pruner=Asha(9, exempt=0))
    led.idle(1)
    led.report(1, 0, 1, 0.5)
    assert led.post.of(1)[1:] == [Word(0, 1, "pause")]
    led.end(1, 0, PartEnd("left"))
    assert led.post.of(1)[2].trial == 1
    assert led.states == ["paused", "running"]


def test_a_result_that_crosses_a_pause_on_its_way_changes_nothing(led):
    led = led(pruner=Asha(9, exempt=0))
    led.idle(1)
    led.report(1, 0, 1, 0.5)
    led.report(1, 0, 2, 0.1)
    assert led.conductor.trials[0].curve == {1: 0.5}
    assert led.post.of(1)[1:] == [Word(0, 1, "pause")]


def test_a_block_that_leaves_gives_its_trial_back(led):
    led = led()
    led.idle(1, 2)
    led.end(1, 0, PartEnd("failed", reason="too few"), leaves=True)
    assert led.states == ["waiting", "running"]
    assert led.conductor.trials[0].n_lost == 1
    led.end(2, 1)
    assert led.post.of(2)[-1] == Order(0, led.conductor.trials[0].params, 2, 0)


def test_a_dead_leader_gives_its_trial_back(led):
    led = led()
    led.idle(1, 2)
    led.report(1, 0, 3, 0.5)
    led.conductor.lose(1, "rank 1 died", led.post, returns=True)
    assert led.conductor.task_of(1) is None
    led.end(1, 0)  # of whoever leads the block now
    assert led.states[0] == "running"
    assert led.post.of(1)[-1] == Order(0, led.conductor.trials[0].params, 2, 3)


def test_an_interruption_suspends_all_and_is_remembered(led):
    led = led()
    led.idle(1, 2)
    for reason in ("interruption (SIGTERM)", "another"):
        led.conductor.tell(Interrupted(reason), led.post)
    assert led.post.sent[2:] == [(1, Word(0, 1, "suspend")), (2, Word(1, 1, "suspend"))]
    assert led.conductor.interrupted == "interruption (SIGTERM)"
    led.end(1, 0, PartEnd("left"))
    led.end(2, 1)
    assert led.states == ["waiting", "finished"]
    assert led.conductor.is_over


def test_time_limits_count_from_the_beginning_of_the_conductor(led):
    led = led(trial_s=5.0)
    led.idle(1)
    led.now = 4.0
    led.conductor.tick(led.post)
    assert led.states == ["running"]
    led.now = 5.1
    led.conductor.tick(led.post)
    assert led.states == ["failed"]
    assert led.post.of(1)[-1] == Word(0, 1, "stop")


def test_the_end_dismisses_all_blocks(led):
    led = led(n_trials=1)
    led.idle(1, 2)
    led.end(1, 0)
    assert led.conductor.is_over
    assert led.conductor.reason == "all trials are done"
    assert {block for block, message in led.post.sent if message is None} == {1, 2}


def test_the_mirror_follows_the_log(led):
    led = led(n_trials=1)
    led.idle(1)
    before = led.post.log.with_name("optuna.log")
    assert not before.exists()  # nobody has rebuilt it
    mirror = led.conductor._mirror
    mirror.rebuild(led.study.records())
    size = before.stat().st_size
    led.end(1, 0)
    assert before.stat().st_size > size


def test_nothing_is_sent_that_could_not_be_written(led, monkeypatch):
    led = led()

    def full(*records):
        raise CheckpointError("it must be written, got a full disk; free space")

    monkeypatch.setattr(led.study, "append", full)
    with pytest.raises(CheckpointError):
        led.conductor.tell(Idle(1), led.post)
    assert led.post.sent == []
