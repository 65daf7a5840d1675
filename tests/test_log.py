"""Where log lines go."""

import logging

import pytest

from nnlo.errors import ConfigError
from nnlo.log import kept_in, set_up

LOG = logging.getLogger("nnlo.some.part")


@pytest.fixture(autouse=True)
def _as_before():
    """The logger of the package as it was."""
    logger = logging.getLogger("nnlo")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    for handler in logger.handlers:
        handler.close()
    logger.handlers[:], logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


def test_lines_say_who_wrote_them(capsys):
    set_up("worker 2")
    LOG.info("begins")
    assert capsys.readouterr().err.endswith(" [worker 2] INFO begins\n")


def test_the_terminal_may_show_less_than_the_file(tmp_path, capsys):
    set_up("search", "info", tmp_path / "log.txt", shown="warning")
    LOG.info("quiet")
    LOG.warning("loud")
    shown, kept = capsys.readouterr().err, (tmp_path / "log.txt").read_text()
    assert "quiet" not in shown
    assert "loud" in shown
    assert "quiet" in kept
    assert "loud" in kept


def test_an_unknown_level_is_refused():
    with pytest.raises(ConfigError, match="must be one of debug"):
        set_up("search", "all")


def test_lines_are_kept_in_a_file_too_as_long_as_it_lasts(tmp_path, capsys):
    set_up("block 1, rank 2", "info", shown="warning")
    file = tmp_path / "log.txt"
    with kept_in(file, "block 1, rank 2"):
        LOG.info("inside")
    LOG.info("outside")
    assert file.read_text().endswith(" [block 1, rank 2] INFO inside\n")
    assert "outside" not in file.read_text()
    assert capsys.readouterr().err == ""


def test_a_second_attempt_adds_to_the_file(tmp_path):
    set_up("search", shown="warning")
    for text in ("first", "second"):
        with kept_in(tmp_path / "log.txt", "search"):
            LOG.info(text)
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert [line.split()[-1] for line in lines] == ["first", "second"]


def test_a_file_is_closed_when_the_work_in_it_fails(tmp_path):
    set_up("search")
    n = len(logging.getLogger("nnlo").handlers)
    with pytest.raises(ZeroDivisionError), kept_in(tmp_path / "log.txt", "search"):
        raise ZeroDivisionError
    assert len(logging.getLogger("nnlo").handlers) == n


def test_a_file_that_cannot_be_written_is_only_a_warning(tmp_path, capsys):
    set_up("search")
    with kept_in(tmp_path / "none" / "log.txt", "search"):
        LOG.info("goes on")
    shown = capsys.readouterr().err
    assert "it is not written" in shown
    assert "goes on" in shown
