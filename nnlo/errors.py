"""Errors a user can act on: ``<what must hold>, got <value>; <what to do>``."""


class NNLOError(Exception):
    """Parent of every error that NNLO raises on purpose."""


class ConfigError(NNLOError):
    """An option, argument or combination of them cannot be used."""


class DataError(NNLOError):
    """A data set, list file or HDF5 file is missing, damaged or inconsistent."""


class ModelError(NNLOError):
    """A model cannot be built, does not fit its data or loss, or differs between ranks."""


class TrainingError(NNLOError):
    """The arithmetic of the training failed, for example by a loss that is not finite."""


class CheckpointError(NNLOError):
    """A checkpoint cannot be written, is damaged or does not fit this run."""


class ProtocolError(NNLOError):
    """A message broke the rules of the exchange between master and worker."""


class RanksLost(NNLOError):
    """Ranks have died that the run cannot do without; every rank that is left raises it.

    Started again, the run can go on from its newest checkpoint.
    """


class WorkerFailed(NNLOError):
    """A worker raised; the message holds its rank, host and traceback.

    rank: world rank of the worker. host: name of its machine. trace: formatted traceback, or
    the message alone where it is an NNLOError.
    """

    def __init__(self, rank: int, host: str, trace: str) -> None:
        trace = trace.rstrip()
        space = "\n" if "\n" in trace else " "
        super().__init__(f"rank {rank} on {host} failed:{space}{trace}")
        self.rank = rank
        self.host = host
        self.trace = trace


class ParticleError(NNLOError):
    """A handler of a particle raised, or particles wait for what will never come.

    kind: name of the original exception's type, "deadlock" or "timeout". particle, rank: where
    it was raised, -1 where it concerns several. trace: formatted traceback, "" where none.
    """

    def __init__(
        self, message: str, kind: str, particle: int = -1, rank: int = -1, trace: str = ""
    ) -> None:
        super().__init__(f"{message}\n{trace.rstrip()}" if trace else message)
        self.message = message
        self.kind = kind
        self.particle = particle
        self.rank = rank
        self.trace = trace
