"""What a table of trials says of one."""

import traceback

import pytest

from nnlo.optimize.trials import Trial


def fail(error, before):
    """Raise ``error`` on account of the one before."""
    try:
        if before is not None:
            fail(before, None)
    except Exception as first:
        raise error from first
    raise error


def raised(error, before=None):
    """The traceback of ``error``."""
    try:
        fail(error, before)
    except Exception:
        return traceback.format_exc()


KERAS = "Exception encountered.\n\n\x1b[1mNegative size\x1b[0m\n\nArguments:\n  \u2022 args=(1,)"


@pytest.mark.parametrize(
    ("reason", "cause"),
    [
        ("", "no reason given"),
        ("its merit was nan", "its merit was nan"),
        ("two\n lines", "two lines"),
        (raised(ValueError("no")), "ValueError: no"),
        (raised(ValueError("no"), KeyError("before")), "ValueError: no"),
        (raised(ValueError("no"))[-60:], "ValueError: no"),
        ("rank 1 on host failed:\n" + raised(ValueError("no")), "ValueError: no"),
        (
            raised(ValueError(KERAS)),
            "ValueError: Exception encountered. \x1b[1mNegative size\x1b[0m Arguments: "
            "\u2022 args=(1,)",
        ),
        (raised(ValueError()), "ValueError"),
    ],
)
def test_the_cause_of_a_failure_is_the_error_without_the_way_to_it(reason, cause):
    assert Trial(0, {}, reason=reason).cause == cause
