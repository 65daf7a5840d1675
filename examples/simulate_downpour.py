"""Asynchronous training that can be repeated: virtual workers in one process, no MPI.

    python examples/simulate_downpour.py --workers 1 6 --epochs 5

Prints how the number of workers, the exchanges and the staleness policy change what the digits
model learns. The loops are those of a real run; only who is heard next is drawn from the seed.
"""

import argparse

from nnlo import Algo, H5Data
from nnlo.model import build_adapter, load_builder
from nnlo.simulate import simulate

ALGORITHMS = {
    "gradients, every batch": Algo("adam"),
    "gradients, every batch, divided by 1 + staleness": Algo("adam", staleness="inverse"),
    "mean gradients of 4 batches": Algo("adam", sync_every=4, worker_optimizer="none"),
    "4 local steps, divided by 1 + staleness": Algo(sync_every=4),
}


def main():
    parser = argparse.ArgumentParser(description="simulate Downpour on the digits")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 6], metavar="N")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=25, help="samples of a worker's batch")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    digits = load_builder("digits")
    data, validation = H5Data(options.batch), H5Data(500, shuffle=False)
    data.set_files(digits.train_files())
    validation.set_files(digits.val_files())

    print(f"{'workers':>7} {'staleness':>9} {'accuracy':>8}  algorithm")
    for n_workers in options.workers:
        for name, algo in ALGORITHMS.items():
            # A new adapter for each run: equal seeds give equal first weights.
            adapter = build_adapter(digits, seed=options.seed, optimizer=algo.worker_optimizer)
            last = simulate(
                algo,
                adapter,
                data,
                n_workers,
                validation=validation,
                num_epochs=options.epochs,
                seed=options.seed,
            ).history.epochs[-1]
            row = f"{n_workers:7} {last['staleness']:9.2f} {last['val_accuracy']:8.3f}  {name}"
            print(row, flush=True)


if __name__ == "__main__":
    main()
