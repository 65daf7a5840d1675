"""What the variational layers of Keras share: Gaussian weights, and two ways to sample them."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from nnlo.bayes.keras_gaussian import GaussianTensor, config_of, prior_from
from nnlo.bayes.priors import Prior
from nnlo.errors import ConfigError

MEAN_STDDEV = 0.1
RHO_MEAN, RHO_STDDEV = -3.0, 0.1
"""First rho: sigma is about 0.05."""

SIGNS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(np.float32) * 2 - 1
"""Eight signs for each value of a byte: random numbers are what costs."""


class Variational(keras.Layer):  # type: ignore[misc]
    """Mixin before a Keras layer with a kernel: the kernel's weights become N(loc, sigma^2).

    sigma = softplus(rho). With ``training=True`` each call draws weights, in another way in each
    child; else the means are used, so that inference has no noise. Every call adds ``kl_weight``
    times the KL divergence from the prior, in nats, to the model's losses.

    prior: of each weight; None for N(0, 1). kernel_initializer: of the means, None for
    N(0, 0.1^2), for example "he_normal". rho_initializer: None for N(-3, 0.1^2).
    bayesian_bias: whether the bias is Gaussian too (same prior); else it is an ordinary weight.
    kl_weight: first value of the variable ``kl_weight``. The 1.0 is right where the loss is the
    sum over all N samples; with a loss that is a mean, as in ``fit``, it must be 1/N: see
    ``set_kl_weight`` and ``KLWeight``. NNLO's own training sets it.
    masked: whether each Gaussian tensor has a ``<name>_mask``, of ones at first (see ``prune``).
    seed: of the noise. Other arguments are those of the Keras layer.
    ConfigError for a wrong prior or a negative weight, and for a regularizer or constraint of the
    kernel, whose place the prior takes.
    """

    kernel_argument = "kernel"
    """What the Keras layer calls the kernel in the names of its arguments."""

    def __init__(
        self,
        *args: Any,
        prior: Prior | Mapping[str, Any] | None = None,
        rho_initializer: Any = None,
        bayesian_bias: bool = False,
        kl_weight: float = 1.0,
        masked: bool = False,
        seed: int | None = None,
        **options: Any,
    ) -> None:
        for ending in ("regularizer", "constraint"):
            if options.get(f"{self.kernel_argument}_{ending}") is not None:
                raise ConfigError(
                    f"a variational kernel must have no {ending}, got one; "
                    "leave it out and choose the prior instead"
                )
        if not kl_weight >= 0.0:
            raise ConfigError(f"kl_weight must be 0 or more, got {kl_weight}; 1/N is usual")
        name = f"{self.kernel_argument}_initializer"
        if options.get(name) is None:
            options[name] = keras.initializers.RandomNormal(0.0, MEAN_STDDEV)
        super().__init__(*args, **options)
        self.prior = prior_from(prior)
        if rho_initializer is None:
            rho_initializer = keras.initializers.RandomNormal(RHO_MEAN, RHO_STDDEV)
        self.rho_initializer = keras.initializers.get(rho_initializer)
        self.bayesian_bias = bayesian_bias
        self.masked = masked
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self._first_kl_weight = kl_weight
        self._told: Any = None

    def build(self, input_shape: Any) -> None:
        """Make the variables; ``kl_weight`` is the first of those that are not trained."""
        self.kl_weight = super().add_weight(
            name="kl_weight",
            shape=(),
            initializer=keras.initializers.Constant(self._first_kl_weight),
            trainable=False,
        )
        self.tensors: dict[str, GaussianTensor] = {}
        super().build(input_shape)
        self.built = True

    def add_weight(self, *args: Any, name: str | None = None, **options: Any) -> Any:
        """Make a weight; where the Keras layer asks for its kernel, loc and rho, return loc."""
        if name != "kernel" and not (name == "bias" and self.bayesian_bias):
            return super().add_weight(*args, name=name, **options)
        made = GaussianTensor.add(
            super().add_weight,
            name,
            tuple(options["shape"]),
            (options["initializer"], self.rho_initializer),
            self.prior,
            masked=self.masked,
        )
        self.tensors[name] = made
        return made.loc

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        sigmas = {name: one.sigma() for name, one in self.tensors.items()}
        self._told = self._kl(sigmas, self.seed_generator if training else None)
        self.add_loss(self.kl_weight * self._told)
        if training:
            outputs = self._sampled(inputs, sigmas)
        else:
            outputs = self._linear(inputs, self.tensors["kernel"].mean())
            outputs = self._plus(outputs, self._mean_bias())
        return outputs if self.activation is None else self.activation(outputs)

    def kl_divergence(self) -> Any:
        """Return KL(q || prior) over all Gaussian weights of the layer in nats, a scalar tensor.

        With a scale mixture it is estimated by one sample of each weight, the same each time;
        the loss in training has fresh ones.
        """
        return self._kl({name: one.sigma() for name, one in self.tensors.items()}, None)

    def last_divergence(self) -> Any:
        """Return the divergence that the latest call, in the same graph, has added to the losses.

        It is not computed again, and after this it is forgotten.
        """
        told, self._told = self._told, None
        return self.kl_divergence() if told is None else told

    def begin_at(self, kernel: Any, bias: Any | None) -> None:
        """Take means from weights that are there, in the shapes of the built layer's own.

        With a Moped prior this sets the scales and the prior too. bias: None without one.
        """
        self.tensors["kernel"].begin_at(kernel)
        if "bias" in self.tensors:
            self.tensors["bias"].begin_at(bias)
        elif self.bias is not None:
            self.bias.assign(bias)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "prior": config_of(self.prior),
            "rho_initializer": keras.initializers.serialize(self.rho_initializer),
            "bayesian_bias": self.bayesian_bias,
            "kl_weight": self._first_kl_weight,
            "masked": self.masked,
            "seed": self.seed,
        }

    def save_own_variables(self, store: Any) -> None:
        keras.Layer.save_own_variables(self, store)  # Dense has its own, for its quantization

    def load_own_variables(self, store: Any) -> None:
        keras.Layer.load_own_variables(self, store)

    def _sampled(self, inputs: Any, sigmas: dict[str, Any]) -> Any:
        """Return the outputs before the activation, of drawn weights."""
        raise NotImplementedError

    def _linear(self, inputs: Any, kernel: Any) -> Any:
        """Return the outputs of a kernel without bias."""
        return self.convolution_op(inputs, kernel)

    def _kl(self, sigmas: dict[str, Any], seed: Any) -> Any:
        return sum(one.kl(sigmas[name], seed) for name, one in self.tensors.items())

    def _mean_bias(self) -> Any:
        tensor = self.tensors.get("bias")
        return self.bias if tensor is None else tensor.mean()

    def _deviation(self, name: str, sigmas: dict[str, Any]) -> Any:
        return self.tensors[name].deviation(sigmas[name], self.seed_generator)

    def _plus(self, outputs: Any, bias: Any) -> Any:
        if bias is None:
            return outputs
        shape = [1] * len(outputs.shape)
        shape[self._channel_axis] = -1
        return outputs + ops.reshape(bias, shape)

    @property
    def _channel_axis(self) -> int:
        return 1 if getattr(self, "data_format", None) == "channels_first" else -1


class Reparameterization(Variational):
    """One draw of the weights for the whole batch (Kingma and Welling 2014, section 2.4)."""

    def _sampled(self, inputs: Any, sigmas: dict[str, Any]) -> Any:
        kernel = self.tensors["kernel"].mean() + self._deviation("kernel", sigmas)
        bias = self._mean_bias()
        if "bias" in sigmas:
            bias = bias + self._deviation("bias", sigmas)
        return self._plus(self._linear(inputs, kernel), bias)


class Flipout(Variational):
    """One draw of the weights, whose deviation gets random signs for each sample.

    y = x * mean + ((x o r) * dW) o s with dW = sigma eps, r in {-1, 1}^(batch, channels in),
    s in {-1, 1}^(batch, channels out), the same at all positions of a sample (Wen et al. 2018,
    Flipout, eq. 4). Each sample has weights of the right distribution, almost independent of
    the other samples', for twice the arithmetic. The same holds within each group of a grouped
    convolution. A Gaussian bias deviates by db o s.
    """

    flips_inputs = True
    """False where each output channel depends on one input channel: s alone is enough there."""

    def _sampled(self, inputs: Any, sigmas: dict[str, Any]) -> Any:
        flipped = inputs * self._signs(inputs) if self.flips_inputs else inputs
        deviation = self._linear(flipped, self._deviation("kernel", sigmas))
        if "bias" in sigmas:
            deviation = self._plus(deviation, self._deviation("bias", sigmas))
        outputs = self._linear(inputs, self.tensors["kernel"].mean())
        outputs = outputs + deviation * self._signs(deviation)
        return self._plus(outputs, self._mean_bias())

    def _signs(self, like: Any) -> Any:
        """Return -1 or 1 for each sample and channel of ``like``, to be multiplied with it."""
        n_channels = like.shape[self._channel_axis]
        n_bytes = -(-n_channels // 8)
        drawn = keras.random.randint(
            (ops.shape(like)[0], n_bytes), 0, 256, seed=self.seed_generator
        )
        signs = ops.reshape(ops.take(SIGNS, drawn, axis=0), (-1, 8 * n_bytes))[:, :n_channels]
        shape = [1] * len(like.shape)
        shape[0], shape[self._channel_axis] = -1, n_channels
        return ops.reshape(signs, shape)
