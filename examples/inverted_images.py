"""Images that a network should not be sure of: those it knows, inverted or with shuffled pixels.

    python examples/inverted_images.py test_mnist.list
    python examples/inverted_images.py test_mnist.list --shuffle

Reads the HDF5 files that a list names and writes one beside the new list for each, with features
and no labels. ``PredictDriver RUN --ood inverted.list`` takes the list.
"""

import argparse
from pathlib import Path

import h5py
import numpy as np

from nnlo.data import read_list


def changed(images, largest, rng):
    """The images (n, rows, columns, channels), inverted, or shuffled by the generator ``rng``."""
    if rng is None:
        return (largest - images).astype(images.dtype)
    pixels = images.reshape(len(images), -1, images.shape[-1])
    order = rng.random(pixels.shape[:2]).argsort(axis=1)  # another one for each image
    return np.take_along_axis(pixels, order[:, :, None], axis=1).reshape(images.shape)


def main():
    parser = argparse.ArgumentParser(description="write inverted or shuffled images")
    parser.add_argument("list", type=Path, help="names HDF5 files with the dataset features")
    parser.add_argument("--shuffle", action="store_true", help="shuffle pixels, do not invert")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of the new files")
    options = parser.parse_args()

    name = "shuffled" if options.shuffle else "inverted"
    rng = np.random.default_rng(0) if options.shuffle else None
    options.out.mkdir(parents=True, exist_ok=True)
    files = []
    for number, file in enumerate(read_list(options.list)):
        files.append(f"{name}_{number:03}.h5")
        with h5py.File(file) as old, h5py.File(options.out / files[-1], "w") as new:
            features = old["features"]
            largest = features.attrs.get("full_scale", 1.0)  # as GetData writes it for bytes
            new["features"] = changed(features[:], largest, rng)
            new["features"].attrs.update(features.attrs)
    (options.out / f"{name}.list").write_text("\n".join(files) + "\n", encoding="utf-8")
    print(f"wrote {len(files)} files and {options.out / name}.list")


if __name__ == "__main__":
    main()
