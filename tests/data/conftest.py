from pathlib import Path

import h5py
import numpy as np
import pytest


@pytest.fixture
def write_files(tmp_path):
    """Write HDF5 files in which sample number n has features (n, n, n) and label n."""

    def write(counts, folder=tmp_path, **how):
        names, at = [], 0
        for k, count in enumerate(counts):
            names.append(str(Path(folder) / f"piece_{k}.h5"))
            numbers = np.arange(at, at + count)
            with h5py.File(names[-1], "w") as file:
                features = np.repeat(numbers[:, None], 3, axis=1).astype(np.float32)
                file.create_dataset("features", data=features, **how)
                file["labels"] = numbers
            at += count
        return names

    return write


@pytest.fixture
def mnist_npz():
    path = Path(__file__).resolve().parents[3] / "shared/data/mnist.npz"
    if not path.exists():
        pytest.skip("the original mnist.npz is not beside the checkout")
    return path
