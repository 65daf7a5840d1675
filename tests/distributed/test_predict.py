"""A prediction is the same whatever the number of ranks."""

import sys

import numpy as np

PROGRAM = """
import sys
import numpy as np
import torch
from nnlo.bayes.likelihood import likelihood_of
from nnlo.bayes.posterior import Posterior, share_of
from nnlo.bayes.predict import predict
from nnlo.errors import DataError
from nnlo.model.make import make_adapter
from nnlo.mpi import link

class Shifted(Posterior):
    kind = "shifted"

    def mine(self, n_draws):
        return share_of(n_draws, rank, 1 if comm is None else comm.size)[::-1]

    def draw(self, index, out):
        out[:] = np.random.default_rng(index).normal(size=out.size)

comm = link.world()
rank = 0 if comm is None else comm.rank
rng = np.random.default_rng(0)
x, y = rng.normal(size=(521, 4)).astype(np.float32), rng.integers(0, 3, 521)
adapter = make_adapter(torch.nn.Linear(4, 3), "sparse_categorical_crossentropy")
likelihood = likelihood_of("sparse_categorical_crossentropy", is_torch=True)
for n in (521, 1):
    found = predict(
        Shifted(), adapter, likelihood, (x[:n], y[:n]), samples=2, comm=comm, keep_draws=True
    )
    assert (found is None) == (rank > 0)
    if found is not None:
        np.savez(f"{sys.argv[1]}-{n}.npz", **found.columns)
try:
    predict(Shifted(), adapter, likelihood, (x, y + 9), samples=2, comm=comm)
except DataError as error:
    print("refused", error, flush=True)
"""


def test_three_ranks_predict_what_one_does_and_refuse_together(launch, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    ranks = [sys.executable, "-m", "nnlo.cli.launch", "-n", "3", "--threads", "1"]
    for name, start in (("three", ranks), ("one", [sys.executable])):
        ended = launch([*start, tmp_path / "program.py", name], OMP_NUM_THREADS="1").ended()
        assert ended.code == 0, ended.output
        assert ended.output.count("refused") == (3 if name == "three" else 1), ended.output
    for n in (521, 1):
        with (
            np.load(tmp_path / f"three-{n}.npz") as three,
            np.load(tmp_path / f"one-{n}.npz") as one,
        ):
            assert three.files == one.files
            assert len(three["total"]) == n
            for column in one.files:
                np.testing.assert_array_equal(three[column], one[column], err_msg=column)
