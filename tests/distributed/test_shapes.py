"""Trees, rings and runs without a master, by real ranks."""

import pytest

pytest.importorskip("torch")

pytestmark = pytest.mark.distributed

RAISES = """
from nnlo.mpi import link
from tiny import get_loss
from tiny import get_model as tiny_model


def get_model(rank, call):
    model = tiny_model()
    forward, calls = model.forward, []

    def forward_or_raise(x):
        calls.append(x)
        if len(calls) == call and link.world().rank == rank:
            raise ValueError("a bad pixel")
        return forward(x)

    model.forward = forward_or_raise
    return model
"""


@pytest.mark.parametrize(
    ("n_ranks", "rank", "words"),
    [
        (3, 1, ("--mode", "allreduce")),
        (3, 0, ("--mode", "allreduce", "--timeline")),
        (3, 2, ("--n-processes", "2")),
        (4, 3, ("--n-masters", "2")),
        (4, 3, ("--n-masters", "2", "--root-mode", "easgd")),
    ],
)
def test_an_exception_on_any_rank_ends_all_with_rank_host_and_traceback(
    train, digits, tmp_path, n_ranks, rank, words
):
    (tmp_path / "tiny.py").write_text((digits / "tiny.py").read_text())
    (tmp_path / "raises.py").write_text(RAISES)
    params = ("--param", f"rank={rank}", "--param", "call=3", "--batch", 20)
    ended = train(n_ranks, "--model", tmp_path / "raises.py", *params, *words, limit_s=60)
    assert ended.code == 1
    assert f"rank {rank} on " in ended.errors[0]
    assert ended.output.count("ValueError: a bad pixel") == 1
