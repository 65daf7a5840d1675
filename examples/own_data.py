"""Data and model of one's own: a regression on CSV files.

    nnlorun -n 3 examples/own_data.py --epochs 30
    nnlorun -n 3 examples/own_data.py my_table_1.csv my_table_2.csv

A file holds one sample a line, the target last. Without files, the 442 patients of
scikit-learn's diabetes data are written into five files first.
"""

import argparse
from pathlib import Path

import keras
import numpy as np

from nnlo import Algo, Data, ModelBuilder, MPIManager
from nnlo.mpi import link


class Tables(Data):
    """NNLO orders, cuts and shares the samples; this class only says what a file holds."""

    def load_data(self, file):
        table = np.loadtxt(file, delimiter=",", dtype=np.float32, ndmin=2)
        return table[:, :-1], table[:, -1:]


class SmallNetwork(ModelBuilder):
    """Every rank calls ``build_model``; all start from the weights of rank 0."""

    loss = "mse"

    def __init__(self, n_features, width=32):
        self.n_features = n_features
        self.width = width

    def build_model(self):
        return keras.Sequential(
            [
                keras.Input((self.n_features,)),
                keras.layers.Dense(self.width, activation="relu"),
                keras.layers.Dense(1),
            ]
        )


def write_diabetes(folder, n_files=5):
    """Write standardised features and target; return the files."""
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    table = np.column_stack([x, y])
    table = (table - table.mean(axis=0)) / table.std(axis=0)
    folder.mkdir(parents=True, exist_ok=True)
    files = [str(folder / f"diabetes_{number}.csv") for number in range(n_files)]
    for file, part in zip(files, np.array_split(table, n_files), strict=True):
        np.savetxt(file, part, delimiter=",", fmt="%.6f")
    return files


def main():
    parser = argparse.ArgumentParser(description="train a regression on CSV files")
    parser.add_argument("files", nargs="*", help="the last one validates (default: diabetes)")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path("data"), help="for the default files")
    options = parser.parse_args()
    if len(options.files) == 1:
        parser.error("at least two files are needed, one to train and one to validate")

    comm = link.world()
    files = options.files
    if not files:
        files = write_diabetes(options.out) if comm is None or comm.rank == 0 else None
        if comm is not None:
            files = comm.bcast(files)

    with open(files[0], encoding="utf-8") as first:
        n_features = first.readline().count(",")
    manager = MPIManager(
        comm,
        Tables(batch_size=20, seed=1),
        Algo("sgd", learning_rate=0.02, momentum=0.9),
        builder := SmallNetwork(n_features),
        loss=builder.loss,
        train_list=files[:-1],
        val_list=files[-1:],
        num_epochs=options.epochs,
    )
    history = manager.train()
    if history is not None:
        first, best = history.epochs[0], history.best
        print(f"validation loss {first['val_loss']:.3f} after the first epoch")
        print(f"validation loss {best['value']:.3f} after epoch {best['epoch']}, the best")
    manager.close()


if __name__ == "__main__":
    main()
