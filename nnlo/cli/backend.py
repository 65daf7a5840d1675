"""What must be done around a backend's import: less noise, not all of the GPU's memory."""

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from nnlo.errors import ConfigError

BACKENDS = ("tensorflow", "torch", "jax")
_NOISE = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog"
    rb"|[IWE]\d{4} .*(oneDNN|[Cc]uda|cuda_|cudart|computation_placer|cpu_feature_guard)"
    rb"|.*rebuild TensorFlow with the appropriate compiler flags"
)


def check_backend() -> None:
    """Raises ConfigError where KERAS_BACKEND names none that there is."""
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    if backend not in BACKENDS:
        raise ConfigError(f"KERAS_BACKEND must be one of {', '.join(BACKENDS)}, got {backend!r}")


@contextmanager
def quiet_import() -> Iterator[None]:
    """Keep back what TensorFlow's C++ says on stderr while it is imported and started.

    Only lines known to say nothing are dropped; the rest is written when the block ends.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield
            _start_tensorflow()
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            caught.seek(0)
            for line in caught:
                if not _NOISE.match(line):
                    os.write(2, line)


def _start_tensorflow() -> None:
    """Find the devices now; take GPU memory as needed, since ranks may share a GPU."""
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is None:
        return
    for device in tensorflow.config.list_physical_devices("GPU"):
        tensorflow.config.experimental.set_memory_growth(device, True)
    tensorflow.constant(0.0)
