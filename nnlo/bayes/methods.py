"""The particle methods by name, and posteriors from the folders that runs have written."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from nnlo.bayes import store
from nnlo.bayes.dropout import MCDropout, MCDropoutPosterior
from nnlo.bayes.ensemble import DeepEnsemble
from nnlo.bayes.method import Method
from nnlo.bayes.posterior import InFolder, ParticlePosterior
from nnlo.bayes.svgd import SVGD
from nnlo.bayes.swag import MultiSWAG, SwagPosterior
from nnlo.errors import CheckpointError, ConfigError
from nnlo.model.manifest import Manifest

if TYPE_CHECKING:
    from mpi4py import MPI

METHODS: Mapping[str, type[Method]] = MappingProxyType(
    {method.name: method for method in (DeepEnsemble, MultiSWAG, SVGD, MCDropout)}
)
"""Every method by its name in options and files."""

_POSTERIORS: Mapping[str, type[ParticlePosterior]] = MappingProxyType(
    {
        DeepEnsemble.name: ParticlePosterior,
        SVGD.name: ParticlePosterior,
        MultiSWAG.name: SwagPosterior,
        MCDropout.name: MCDropoutPosterior,
    }
)


def make_method(name: str, **numbers: Any) -> Method:
    """The method called ``name`` with these numbers; raises ConfigError for unknown ones."""
    if name not in METHODS:
        raise ConfigError(f"the method must be one of {', '.join(METHODS)}, got {name!r}")
    kind: Any = METHODS[name]
    known = [entry.name for entry in fields(kind)]
    if unknown := sorted(set(numbers) - set(known)):
        raise ConfigError(
            f"{name} must be given numbers it has, got {', '.join(unknown)}; it has "
            f"{', '.join(known)}"
        )
    method: Method = kind(**numbers)
    return method


def load(
    folder: str | Path, manifest: Manifest, comm: "MPI.Intracomm | None" = None
) -> ParticlePosterior:
    """The posterior that a run of particles has left in ``folder``; ranks share its draws.

    manifest: of the run's model, built anew. Raises CheckpointError for a folder that holds no
    posterior of that model.
    """
    folder = Path(folder)
    about = store.read_about(folder)
    kind, numbers = str(about.get("kind")), about.get("numbers", {})
    if kind not in _POSTERIORS:
        raise CheckpointError(
            f"a posterior must be of {', '.join(_POSTERIORS)}, got {kind!r} in {folder}; "
            "take a folder that this version has written"
        )
    try:
        make_method(kind, **numbers)
    except (ConfigError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"a posterior must have the numbers of {kind}, got {numbers!r} in {folder} ({error}); "
            "restore the folder from a copy"
        ) from error
    rank, n_ranks = (0, 1) if comm is None else (comm.rank, comm.size)
    return _POSTERIORS[kind](InFolder(folder, manifest, rank, n_ranks), **numbers)
