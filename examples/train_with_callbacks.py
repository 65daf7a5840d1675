"""NNLO as a library: the digits model with unmodified Keras callbacks.

    nnlorun -n 3 examples/train_with_callbacks.py --epochs 20

Every rank runs this file. Rank 0 is the master, and the callbacks run there. Without nnlorun
the same file trains in one process.
"""

import argparse
from pathlib import Path

import keras

from nnlo import Algo, H5Data, MPIManager
from nnlo.model import load_builder
from nnlo.mpi import link


def main():
    parser = argparse.ArgumentParser(description="train digits with Keras callbacks")
    parser.add_argument("--epochs", type=int, default=20, help="at most")
    parser.add_argument("--out", type=Path, default=Path("runs/callbacks"), help="folder")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    comm = link.world()  # None in a single process
    digits = load_builder("digits")
    # Rank 0 alone looks for the data, and writes it the first time; the others are told.
    lists = (digits.train_files(), digits.val_files()) if comm is None or comm.rank == 0 else None
    if comm is not None:
        lists = comm.bcast(lists)

    manager = MPIManager(
        comm,
        H5Data(batch_size=50),
        Algo("adam", learning_rate=0.002),
        digits,
        loss=digits.loss,
        train_list=lists[0],
        val_list=lists[1],
        num_epochs=options.epochs,
        callbacks=[
            keras.callbacks.ReduceLROnPlateau(monitor="val_loss", factor=0.5, patience=2),
            keras.callbacks.EarlyStopping(monitor="val_loss", patience=5),
            keras.callbacks.CSVLogger(str(options.out / "log.csv")),
            keras.callbacks.ModelCheckpoint(
                str(options.out / "best.keras"),
                monitor="val_loss",
                mode="min",
                save_best_only=True,
            ),
        ],
    )
    history = manager.train()
    if history is not None:  # on rank 0
        history.save(options.out / "history.json")
        last = history.epochs[-1]
        print(f"stopped by {history.stopped} in epoch {last['epoch']}")
        print(f"validation accuracy {last['val_accuracy']:.3f}, best at {history.best}")
    manager.close()


if __name__ == "__main__":
    main()
