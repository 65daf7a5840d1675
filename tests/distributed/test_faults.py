"""A few runs of the fault injector; benchmarks/faults.py does hundreds.

What test_regroup.py, test_refusal.py and test_restart.py show is left to them.
"""

import os

import pytest

from nnlo.cli.machine import probe_machine
from nnlo.cli.request import lacks_fault_tolerance
from tests.distributed.cases import CELLS, FAULTS, Case, draw
from tests.distributed.verdict import run_case

pytest.importorskip("torch")

pytestmark = pytest.mark.distributed


def raises(rank, batch):
    return {"do": "raise", "rank": rank, "batch": batch, "count": 10**9}


RUNS = [
    Case(1, "star", "downpour", "worker killed", 4, 1, 0.3, (1,)),
    Case(2, "synchronous star", "downpour", "frozen, wakes up", 3, 0, 0.3, (2,), 2.5),
    Case(3, "star", "downpour", "frozen for ever", 3, 0, 0.3, (1,)),
    Case(4, "star", "easgd", "raises, continue", 3, 0, 0.3, order=raises(2, 40)),
    Case(6, "star", "downpour", "rank 0 killed, restart", 3, 0, 0.5, (0,)),
    Case(8, "synchronous star", "downpour", "job killed, newest checkpoint cut", 3, 0, 0.6),
]


@pytest.mark.parametrize("case", RUNS, ids=lambda case: f"{case.shape}, {case.fault}")
def test_a_run_ends_as_promised(case, tmp_path):
    if FAULTS[case.fault].tolerant and (lacks := lacks_fault_tolerance(probe_machine(os.environ))):
        pytest.skip(lacks)
    verdict = run_case(case, tmp_path)
    report = (tmp_path / "output.txt").read_text()
    assert verdict.problems == [], report
    assert verdict.done != "too late"


def test_a_seed_is_a_run():
    assert draw(7) == draw(7)
    assert {(case.shape, case.fault) for case in map(draw, range(len(CELLS)))} == set(CELLS)
