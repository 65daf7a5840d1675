"""A GAN for showers in a calorimeter of 25 x 25 x 25 cells: three-dimensional convolutions, and a
discriminator that also tells the energy of the particle.

The two networks have a train_step of their own, on the TensorFlow or the PyTorch backend of
Keras. The idea is that of F. Carminati et al., "Three dimensional Generative Adversarial Networks
for fast simulation", J. Phys. Conf. Ser. 1085 (2018) 032016, with smaller networks and relative
errors as fractions, not percentages. Features `X` are deposits (n, 25, 25, 25, 1), labels `y` the
energies of the particles (n,), all in GeV.
"""

import keras
import numpy as np
from keras import layers, ops
from skopt.space import Integer, Real

SIDE = 25
SAMPLING_FRACTION = 0.025  # of the energy that the calorimeter sees
ENERGY = 100.0  # GeV; the unit of energies inside the networks
DEPOSIT = 0.001  # GeV; smaller deposits count little to the discriminator


def make_generator(latent, width):
    """Return a network from noise (latent,) and energy (1,) in GeV to deposits in GeV."""
    noise, energy = keras.Input((latent,)), keras.Input((1,))
    condition = layers.Concatenate()([noise, ops.log(energy / ENERGY)])
    x = layers.Reshape((7, 7, 7, width))(layers.Dense(7**3 * width)(condition))
    x = layers.LeakyReLU(0.2)(layers.BatchNormalization(momentum=0.9)(x))
    # 7 -> 14 -> 28 -> 25 cells
    for filters, kernel, padding in ((width, 3, "same"), (width // 2, 4, "valid")):
        x = layers.UpSampling3D(2)(x)
        x = layers.Conv3D(filters, kernel, padding=padding)(x)
        x = layers.LeakyReLU(0.2)(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.Softmax()(layers.Flatten()(layers.Conv3D(1, 3, padding="same")(x)))
    # the cells share the total, which fluctuates about what the calorimeter sees on average
    fluctuation = ops.exp(layers.Dense(1, kernel_initializer="zeros")(condition))
    x = x * (SAMPLING_FRACTION * energy * fluctuation)
    x = layers.Reshape((SIDE, SIDE, SIDE, 1))(x)
    return keras.Model([noise, energy], x, name="generator")


def make_discriminator(width, dropout):
    """Return a network from deposits to three columns (n, 1).

    The logit that the shower is real, the energy of its particle and the sum of its deposits,
    both in GeV.
    """
    image = keras.Input((SIDE, SIDE, SIDE, 1))
    x = ops.log1p(image / DEPOSIT)
    for kernel in (5, 3, 3):
        x = layers.Conv3D(width, kernel, strides=2, padding="same")(x)
        x = layers.LeakyReLU(0.2)(layers.BatchNormalization(momentum=0.9)(x))
        x = layers.Dropout(dropout)(x)
    x = layers.Flatten()(x)
    energy = layers.Rescaling(ENERGY)(layers.Dense(1)(x))
    total = ops.sum(image, axis=(1, 2, 3))
    return keras.Model(image, [layers.Dense(1)(x), energy, total], name="discriminator")


def relative_error(found, true):
    """Return the mean of |found - true| / true over a batch."""
    return ops.mean(ops.abs(found - true) / true)


@keras.saving.register_keras_serializable("nnlo")
class ShowerGAN(keras.Model):
    """Both networks; ``call`` judges deposits.

    sizes: latent, width, dropout. weights: what the three parts of the losses count.
    ``optimizers`` holds one optimizer for each network, by name; set it before train_step.
    """

    metric_names = (
        "discriminator/loss",
        "discriminator/accuracy",
        "discriminator/energy_error",
        "generator/loss",
        "generator/energy_error",
        "generator/total_error",
    )

    def __init__(self, latent, width, dropout, weights, **options):
        super().__init__(**options)
        self.sizes = {"latent": latent, "width": width, "dropout": dropout}
        self.loss_weights = dict(weights)
        self.generator = make_generator(latent, width)
        self.discriminator = make_discriminator(width, dropout)
        self.random = keras.random.SeedGenerator()
        self.optimizers = {}
        self.built = True  # as its networks are

    @property
    def networks(self):
        return {"generator": self.generator, "discriminator": self.discriminator}

    def get_config(self):
        return {**super().get_config(), **self.sizes, "weights": dict(self.loss_weights)}

    def call(self, deposits, training=False):
        return self.discriminator(deposits, training=training)

    def train_step(self, data):
        """Take a step of the discriminator, then one of the generator.

        data: (deposits, energies). The generator makes showers of the same energies; their
        sums must be those of the real ones.
        """
        judged = self._step("discriminator", self._judge, data, self.random)
        return {**judged, **self._step("generator", self._fool, data, self.random)}

    def test_step(self, data):
        """Return the same metrics; the noise is the same for every batch of one size."""
        return {**self._judge(*data, 0, False), **self._fool(*data, 0, False)}

    def generate(self, energies, seed=0):
        """Return deposits (n, 25, 25, 25, 1) of particles of the energies (n,), in GeV."""
        energies = np.reshape(energies, (-1, 1)).astype(np.float32)
        noise = np.random.default_rng(seed).normal(size=(len(energies), self.sizes["latent"]))
        return self.generator.predict([noise.astype(np.float32), energies], verbose=0)

    def _draw(self, energies, seed, training):
        noise = keras.random.normal((ops.shape(energies)[0], self.sizes["latent"]), seed=seed)
        return self.generator([noise, energies], training=training)

    def _judge(self, deposits, energies, seed, training=True):
        energies = ops.reshape(energies, (-1, 1))
        made = ops.stop_gradient(self._draw(energies, seed, training))
        # in one batch, so that real and made ones meet the same normalisation
        both = ops.concatenate([deposits, made])
        verdicts, told, _ = self.discriminator(both, training=training)
        real, fake = ops.split(verdicts, 2)
        energy, _ = ops.split(told, 2)
        right = [ops.cast(real > 0, "float32"), ops.cast(fake <= 0, "float32")]
        verdict = ops.mean(ops.softplus(-real)) + ops.mean(ops.softplus(fake))
        error = relative_error(energy, energies)
        weights = self.loss_weights
        return {
            "discriminator/loss": weights["generation"] * verdict + weights["energy"] * error,
            "discriminator/accuracy": ops.mean(ops.concatenate(right)),
            "discriminator/energy_error": error,
        }

    def _fool(self, deposits, energies, seed, training=True):
        energies = ops.reshape(energies, (-1, 1))
        made = self._draw(energies, seed, training)
        # in inference mode: this step leaves the discriminator's statistics alone
        fake, energy, total = self.discriminator(made)
        verdict = ops.mean(ops.softplus(-fake))
        error = relative_error(energy, energies)
        total_error = relative_error(total, ops.sum(deposits, axis=(1, 2, 3)))
        weights = self.loss_weights
        loss = weights["generation"] * verdict + weights["energy"] * error
        return {
            "generator/loss": loss + weights["total"] * total_error,
            "generator/energy_error": error,
            "generator/total_error": total_error,
        }

    def _step(self, name, metrics_of, data, seed):
        """Descend the loss of one network along its gradient; return its metrics."""
        variables = self.networks[name].trainable_variables
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            with tf.GradientTape() as tape:
                metrics = metrics_of(*data, seed)
            gradients = tape.gradient(metrics[f"{name}/loss"], variables)
            self.optimizers[name].apply(gradients, variables)
            return metrics
        import torch

        metrics = metrics_of(*data, seed)
        values = [variable.value for variable in variables]
        gradients = torch.autograd.grad(metrics[f"{name}/loss"], values)
        with torch.no_grad():
            self.optimizers[name].apply(gradients, variables)
        return {key: value.detach() for key, value in metrics.items()}


def get_model(
    latent=128,
    width=16,
    dropout=0.2,
    generation_weight=1.0,
    energy_weight=1.0,
    total_weight=1.0,
):
    """Return the two networks as one model without optimizers (RMSprop suits it).

    Weights of the loss: of the verdict on real or made, of the relative error of the energy
    that the discriminator tells, and of that of the sum of deposits.
    """
    weights = {"generation": generation_weight, "energy": energy_weight, "total": total_weight}
    return ShowerGAN(latent, width, dropout, weights, name="gan3d")


get_model.parameter_range = [
    Integer(16, 256, prior="log-uniform", name="latent"),
    Integer(4, 32, prior="log-uniform", name="width"),
    Real(0.0, 0.6, name="dropout"),
    # generation_weight stays 1: RMSprop and Adam see only what the others count beside it
    Real(0.1, 10.0, prior="log-uniform", name="energy_weight"),
    Real(0.1, 10.0, prior="log-uniform", name="total_weight"),
]


def figure_of_merit(history):
    """Return how far showers are from real ones in the last epoch; 0 is perfect.

    The sum of the relative errors of the total deposit and of the energy that the discriminator
    tells of made showers, of that of real ones, without which it could not judge, and of how
    much better than by chance it tells one from the other (0..1). No weight of the losses
    counts, so that trials with different ones compare.
    """
    of = "val_" if history.values("val_loss") else ""
    errors = [f"{of}generator/total_error", f"{of}generator/energy_error"]
    errors.append(f"{of}discriminator/energy_error")
    right = history.values(f"{of}discriminator/accuracy")[-1]
    return sum(history.values(name)[-1] for name in errors) + abs(2 * right - 1)


def get_name():
    return "gan3d"


def get_features():
    return "X"


def get_labels():
    return "y"


def get_train():
    from nnlo.data.fetch import dataset_files

    return dataset_files("calo3d")[0]


def get_val():
    from nnlo.data.fetch import dataset_files

    return dataset_files("calo3d")[1]
