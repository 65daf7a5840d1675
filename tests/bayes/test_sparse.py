"""The small file of a pruned model."""

import numpy as np
import pytest

from nnlo.bayes.gaussians import find_gaussians
from nnlo.bayes.prune import apply_masks, masks
from nnlo.bayes.sparse import export_sparse, read_sparse
from nnlo.errors import ModelError
from nnlo.model.manifest import Manifest

PAIR = [("a/kernel_loc", (20, 50)), ("a/kernel_rho", (20, 50)), ("a/bias", (3,))]
STATE = [("a/kl_weight", ()), ("a/kernel_mask", (20, 50))]
MANIFEST = Manifest.pack(PAIR * 2, STATE * 2)


def pruned(fraction):
    vector = np.random.default_rng(0).normal(size=MANIFEST.size).astype(np.float32)
    gaussians = find_gaussians(MANIFEST)
    for one in gaussians:
        one.masks(vector)[...] = 1.0
    apply_masks(gaussians, vector, masks(gaussians, vector, fraction=fraction))
    return vector


@pytest.mark.parametrize("fraction", [0.0, 0.75, 1.0])
def test_what_is_read_is_what_was_written(tmp_path, fraction):
    vector = pruned(fraction)
    export_sparse(tmp_path / "sparse.npz", MANIFEST, vector)
    assert read_sparse(tmp_path / "sparse.npz", MANIFEST).tobytes() == vector.tobytes()


def test_a_model_without_masks_is_written_whole(tmp_path):
    manifest = Manifest.pack(PAIR, [])
    vector = np.arange(manifest.size, dtype=np.float32)
    export_sparse(tmp_path / "sparse.npz", manifest, vector)
    assert read_sparse(tmp_path / "sparse.npz", manifest).tolist() == vector.tolist()


def test_the_file_holds_indices_and_values_of_what_is_left(tmp_path):
    vector = pruned(0.9)
    export_sparse(tmp_path / "sparse.npz", MANIFEST, vector)
    with np.load(tmp_path / "sparse.npz") as file:
        label = "sparse/model/a/kernel#2"
        dense = np.zeros(file[f"{label}/shape"], np.float32)
        dense.reshape(-1)[file[f"{label}/indices"]] = file[f"{label}/loc"]
        assert file["dense/model/a/bias"].shape == (3,)
    assert dense.tolist() == find_gaussians(MANIFEST)[1].means(vector).tolist()


def test_the_file_is_small(tmp_path):
    export_sparse(tmp_path / "sparse.npz", MANIFEST, pruned(0.9))
    assert (tmp_path / "sparse.npz").stat().st_size < 0.5 * 4 * MANIFEST.n_trainable


def test_the_file_of_another_model_is_refused(tmp_path):
    export_sparse(tmp_path / "sparse.npz", MANIFEST, pruned(0.5))
    with pytest.raises(ModelError, match=r"must be those of the model, got .* of another one"):
        read_sparse(tmp_path / "sparse.npz", Manifest.pack(PAIR, STATE))


@pytest.mark.parametrize("content", [b"", b"no archive"])
def test_what_is_no_such_file_is_refused(tmp_path, content):
    (tmp_path / "sparse.npz").write_bytes(content)
    with pytest.raises(ModelError, match="must be a file of export_sparse"):
        read_sparse(tmp_path / "sparse.npz", MANIFEST)


def test_another_archive_is_refused(tmp_path):
    np.savez(tmp_path / "weights.npz", a=np.zeros(3))
    with pytest.raises(ModelError, match="must be of the format nnlo-sparse-1"):
        read_sparse(tmp_path / "weights.npz", MANIFEST)
