"""A layer that says how noisy the labels of a regression are, for the loss ``gaussian_nll``."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from nnlo.bayes.gaussians import rho_of
from nnlo.errors import ConfigError
from nnlo.model.losses import MIN_SD


@keras.saving.register_keras_serializable(package="nnlo")
class Noise(keras.Layer):  # type: ignore[misc]
    """Appends columns of raw scales to the k means of a regression: (..., k) to (..., 2k).

    sd: standard deviation of the labels around the function, one number or one for each of the
    k, above ``MIN_SD``; the same for every sample. trainable: whether it is learnt.
    """

    def __init__(
        self, sd: float | Sequence[float], *, trainable: bool = False, **options: Any
    ) -> None:
        super().__init__(trainable=trainable, **options)
        scales = np.asarray(sd, np.float64)
        if not (np.isfinite(scales).all() and (scales > MIN_SD).all()):
            raise ConfigError(
                f"the noise must be above {MIN_SD} and finite, got {sd}; "
                "give the standard deviation of the labels"
            )
        self.sd = scales.tolist()

    def build(self, input_shape: Any) -> None:
        """Make ``raw_scale``, shape () or (k,): sd = softplus(raw_scale) + MIN_SD."""
        raw = rho_of(np.asarray(self.sd) - MIN_SD)
        initializer = keras.initializers.Constant(raw)
        self.raw_scale = self.add_weight(
            name="raw_scale", shape=raw.shape, initializer=initializer
        )

    def call(self, inputs: Any) -> Any:
        return ops.concatenate([inputs, ops.zeros_like(inputs) + self.raw_scale], axis=-1)

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        return (*input_shape[:-1], 2 * input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "sd": self.sd}
