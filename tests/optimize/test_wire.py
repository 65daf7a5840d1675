"""Messages come back as they were sent."""

import math

import pytest

from nnlo.optimize.wire import (
    Goodbye,
    Halt,
    Order,
    Outcome,
    PartEnd,
    Report,
    Word,
    pack,
    part_from_json,
    unpack,
)

END = PartEnd("done", 1, (0.5, 2.0), {"loss": 0.1}, 3, {"model_2": "trials/a"}, "", "nan", True)


@pytest.mark.parametrize(
    "message",
    [
        Order(3, {"width": 4, "rate": 1e-300, "kind": "a\n\u2028", "flag": True}, 2, 5, 7),
        Report(3, 1, 0, 2, (0.25, -1.0), {"loss": 0.5}, saved=True, is_last=True),
        Halt(3, 1),
        Outcome(),
        Outcome(3, 1, (END, PartEnd("failed", reason="\udcff")), leaves=True),
        Word(3, 1, "pause"),
        Goodbye(),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_message_comes_back_equal(message):
    assert unpack(pack(message)) == message


def test_values_keep_their_types():
    params = unpack(pack(Order(0, {"n": 2, "x": 2.0, "on": False}))).params
    assert [type(value) for value in params.values()] == [int, float, bool]


def test_what_is_no_number_comes_back():
    merits = unpack(pack(Report(0, 1, 0, 1, (math.nan, math.inf, -math.inf)))).merits
    assert math.isnan(merits[0])
    assert merits[1:] == (math.inf, -math.inf)


@pytest.mark.parametrize(
    "fields", [{}, {"state": "done"}, {"state": "done", "merits": [1], "z": 1}]
)
def test_a_part_that_is_none_is_refused(fields):
    with pytest.raises((KeyError, TypeError)):
        part_from_json(fields)
