"""Forgetting models, for processes that train many, one after the other."""

import ctypes
import gc
import sys

from nnlo.model.engines import ENGINES


def release() -> None:
    """Give back the memory of models and adapters that nobody refers to any more.

    To be called between trainings, not within one. Models that are still in use stay whole.
    Keras numbers new layers from the start again, and keeps its dtype policy.
    """
    keras = sys.modules.get("keras")
    if keras is not None:
        policy = keras.config.dtype_policy()
        keras.utils.clear_session(free_memory=False)
        keras.config.set_dtype_policy(policy)  # a model file sets it once, when it is read
    for name in ENGINES.values():
        engine = sys.modules.get(name)
        if engine is not None:
            engine.forget()
    gc.collect()
    _trim()


def _trim() -> None:
    """Hand free memory of the C heap back to the system, where the C library can."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library than glibc
        return
    trim(ctypes.c_size_t(0))
