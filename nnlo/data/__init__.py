"""Batches for the training loops: hooks for users, streaming HDF5, list files."""

from nnlo.data.base import Batch, Data
from nnlo.data.hdf5 import H5Data
from nnlo.data.lists import read_list

__all__ = ["Batch", "Data", "H5Data", "read_list"]
