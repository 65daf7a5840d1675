"""Models as flat vectors: adapters, builders and the zoo; no backend until one is used."""

from nnlo.model.adapter import Batch, ModelAdapter, Sums, Vector
from nnlo.model.builder import ModelBuilder, ModelFromJson, ModelFromKeras
from nnlo.model.loader import load_builder, zoo_folder, zoo_names
from nnlo.model.make import build_adapter, make_adapter
from nnlo.model.manifest import Entry, Manifest
from nnlo.model.memory import release
from nnlo.model.python_file import ModelFromPython

__all__ = [
    "Batch",
    "Entry",
    "Manifest",
    "ModelAdapter",
    "ModelBuilder",
    "ModelFromJson",
    "ModelFromKeras",
    "ModelFromPython",
    "Sums",
    "Vector",
    "build_adapter",
    "load_builder",
    "make_adapter",
    "release",
    "zoo_folder",
    "zoo_names",
]
