"""GetData: write a data set as HDF5 pieces and list files."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nnlo.data.fetch import NAMES, write_dataset
from nnlo.data.lists import read_list
from nnlo.errors import NNLOError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0, or 1 after a message on stderr."""
    options = _parser().parse_args(argv)
    try:
        lists = write_dataset(
            options.name,
            options.out,
            options.source,
            options.train_files,
            options.test_files,
            options.samples,
        )
    except NNLOError as error:
        print(f"GetData: error: {error}", file=sys.stderr)
        return 1
    for path in lists:
        print(f"{path}: {len(read_list(path))} files")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="GetData",
        description="Write a data set as HDF5 pieces, train_NAME.list and test_NAME.list.",
    )
    parser.add_argument("name", choices=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument(
        "--out", type=Path, default=Path(), metavar="DIR", help="folder to write to (default: .)"
    )
    parser.add_argument(
        "--source",
        type=Path,
        metavar="FILE",
        help="local original instead of a download: mnist.npz, or a .tar.gz or folder of cifar10",
    )
    parser.add_argument(
        "--train-files", type=int, default=24, metavar="N", help="training pieces (default: 24)"
    )
    parser.add_argument(
        "--test-files", type=int, default=4, metavar="N", help="test pieces (default: 4)"
    )
    parser.add_argument(
        "--samples",
        type=int,
        metavar="N",
        help="showers of calo3d, a fifth of them for the test (default: 1000)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
