"""Variational layers of Keras 3, on TensorFlow, PyTorch or JAX; see ``Variational``.

Arguments are those of the Keras layer of that name, and those of ``Variational``.
"""

from typing import Any

import keras
from keras import layers, ops

from nnlo.bayes.keras_variational import Flipout, Reparameterization, Variational

register = keras.saving.register_keras_serializable(package="nnlo")


class _Dense(Variational, layers.Dense):  # type: ignore[misc]
    def _linear(self, inputs: Any, kernel: Any) -> Any:
        return ops.matmul(inputs, kernel)


class _Conv1D(Variational, layers.Conv1D):  # type: ignore[misc]
    def _linear(self, inputs: Any, kernel: Any) -> Any:
        padding = self.padding
        if padding == "causal":
            n_before = self.dilation_rate[0] * (self.kernel_size[0] - 1)
            before = [[0, 0], [0, 0], [0, 0]]
            before[2 if self.data_format == "channels_first" else 1][0] = n_before
            inputs, padding = ops.pad(inputs, before), "valid"
        return ops.conv(
            inputs,
            kernel,
            strides=self.strides,
            padding=padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )


class _Depthwise(Variational, layers.DepthwiseConv2D):  # type: ignore[misc]
    kernel_argument = "depthwise"

    def _linear(self, inputs: Any, kernel: Any) -> Any:
        return ops.depthwise_conv(
            inputs,
            kernel,
            strides=self.strides,
            padding=self.padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )


@register
class DenseReparameterization(Reparameterization, _Dense):
    """Densely connected; one draw for the batch."""


@register
class DenseFlipout(Flipout, _Dense):
    """Densely connected; signs flipped for each sample."""


@register
class Conv1DReparameterization(Reparameterization, _Conv1D):
    """Convolution along one axis; one draw for the batch."""


@register
class Conv1DFlipout(Flipout, _Conv1D):
    """Convolution along one axis; signs flipped for each sample."""


@register
class Conv2DReparameterization(Reparameterization, layers.Conv2D):  # type: ignore[misc]
    """Convolution of images; one draw for the batch."""


@register
class Conv2DFlipout(Flipout, layers.Conv2D):  # type: ignore[misc]
    """Convolution of images; signs flipped for each sample."""


@register
class Conv3DReparameterization(Reparameterization, layers.Conv3D):  # type: ignore[misc]
    """Convolution of volumes; one draw for the batch."""


@register
class Conv3DFlipout(Flipout, layers.Conv3D):  # type: ignore[misc]
    """Convolution of volumes; signs flipped for each sample."""


@register
class DepthwiseConv2DReparameterization(Reparameterization, _Depthwise):
    """Convolution of each channel by kernels of its own; one draw for the batch."""


@register
class DepthwiseConv2DFlipout(Flipout, _Depthwise):
    """Convolution of each channel by kernels of its own; signs flipped for each sample."""

    flips_inputs = False
