"""A conditional GAN that draws digits of 8 by 8 pixels: two networks with a train_step of their
own, on the TensorFlow or the PyTorch backend of Keras (M. Mirza and S. Osindero, 1411.1784)."""

import keras
import numpy as np
from keras import layers, ops
from skopt.space import Integer, Real

N_CLASSES = 10
KERNEL = 4.0  # about the squared distance of two images of one class


def make_generator(latent, width):
    """Return a network from noise (latent,) and a one-hot class (10,) to an image (8, 8, 1)."""
    noise, label = keras.Input((latent,)), keras.Input((N_CLASSES,))
    x = layers.Concatenate()([noise, label])
    for units in (width, 2 * width):
        x = layers.Dense(units)(x)
        x = layers.BatchNormalization(momentum=0.9)(x)
        x = layers.LeakyReLU(0.2)(x)
    x = layers.Reshape((8, 8, 1))(layers.Dense(64, activation="sigmoid")(x))
    return keras.Model([noise, label], x, name="generator")


def make_discriminator(width, dropout):
    """Return a network from an image and a one-hot class to the logit that it is real."""
    image, label = keras.Input((8, 8, 1)), keras.Input((N_CLASSES,))
    x = layers.Concatenate()([layers.Flatten()(image), label])
    for units in (2 * width, width):
        x = layers.Dropout(dropout)(layers.LeakyReLU(0.2)(layers.Dense(units)(x)))
    return keras.Model([image, label], layers.Dense(1)(x), name="discriminator")


def mismatch(made, real, labels):
    """Return how different two sets of images (n, 8, 8, 1) of the same classes are; 0 if equal.

    The squared maximum mean discrepancy with a Gaussian kernel within each class, n**-2 times
    the sum over all pairs (A. Gretton et al., JMLR 13 (2012) 723, equation 5), biased: it is
    about 1 / n for images of one source, in all trials alike. No discriminator has a say in it.
    """
    made, real = (ops.reshape(one, (-1, 64)) for one in (made, real))
    alike = ops.matmul(labels, ops.transpose(labels))

    def kernel(a, b):
        products = ops.matmul(a, ops.transpose(b))
        squares = ops.sum(a * a, axis=1)[:, None] + ops.sum(b * b, axis=1) - 2 * products
        return alike * ops.exp(-squares / KERNEL)

    return ops.mean(kernel(made, made) + kernel(real, real) - 2 * kernel(made, real))


@keras.saving.register_keras_serializable("nnlo")
class DigitsGAN(keras.Model):
    """Both networks; ``call`` judges (images, classes).

    ``optimizers`` holds one optimizer for each network, by name; set it before train_step.
    """

    metric_names = (
        "discriminator/loss",
        "discriminator/accuracy",
        "generator/loss",
        "generator/mismatch",
    )

    def __init__(self, latent, width, dropout, **options):
        super().__init__(**options)
        self.sizes = {"latent": latent, "width": width, "dropout": dropout}
        self.generator = make_generator(latent, width)
        self.discriminator = make_discriminator(width, dropout)
        self.random = keras.random.SeedGenerator()
        self.optimizers = {}
        self.built = True  # as its networks are

    @property
    def networks(self):
        return {"generator": self.generator, "discriminator": self.discriminator}

    def get_config(self):
        return {**super().get_config(), **self.sizes}

    def call(self, inputs, training=False):
        return self.discriminator(inputs, training=training)

    def train_step(self, data):
        """Take a step of the discriminator, then one of the generator; data: (images, classes)."""
        judged = self._step("discriminator", self._judge, data, self.random)
        return {**judged, **self._step("generator", self._fool, data, self.random)}

    def test_step(self, data):
        """Return the same metrics; the noise is the same for every batch of one size."""
        return {**self._judge(*data, 0, False), **self._fool(*data, 0, False)}

    def generate(self, classes, seed=0):
        """Return images (n, 8, 8, 1) in 0..1 of the classes (n,)."""
        labels = np.eye(N_CLASSES, dtype=np.float32)[classes]
        noise = np.random.default_rng(seed).normal(size=(len(labels), self.sizes["latent"]))
        return self.generator.predict([noise.astype(np.float32), labels], verbose=0)

    def _draw(self, labels, seed, training):
        noise = keras.random.normal((ops.shape(labels)[0], self.sizes["latent"]), seed=seed)
        return self.generator([noise, labels], training=training)

    def _judge(self, images, labels, seed, training=True):
        made = ops.stop_gradient(self._draw(labels, seed, training))
        real = self.discriminator([images, labels], training=training)
        fake = self.discriminator([made, labels], training=training)
        right = [ops.cast(real > 0, "float32"), ops.cast(fake <= 0, "float32")]
        return {
            "discriminator/loss": ops.mean(ops.softplus(-real)) + ops.mean(ops.softplus(fake)),
            "discriminator/accuracy": ops.mean(ops.concatenate(right)),
        }

    def _fool(self, images, labels, seed, training=True):
        made = self._draw(labels, seed, training)
        fake = self.discriminator([made, labels], training=training)
        return {
            "generator/loss": ops.mean(ops.softplus(-fake)),
            "generator/mismatch": mismatch(ops.stop_gradient(made), images, labels),
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


def get_model(latent=16, width=128, dropout=0.1):
    """Return the two networks as one model without optimizers (RMSprop suits it)."""
    return DigitsGAN(latent, width, dropout, name="gan_digits")


get_model.parameter_range = [
    Integer(4, 64, prior="log-uniform", name="latent"),
    Integer(32, 256, prior="log-uniform", name="width"),
    Real(0.0, 0.6, name="dropout"),
]


def figure_of_merit(history):
    """Return how different drawn digits are from real ones in the last epoch; 0 is perfect.

    The losses would not do: each trial measures them by a discriminator of its own.
    """
    of = "val_" if history.values("val_loss") else ""
    return history.values(f"{of}generator/mismatch")[-1]


def get_name():
    return "gan_digits"


def get_train():
    from nnlo.data.fetch import dataset_files

    return dataset_files("digits")[0]


def get_val():
    from nnlo.data.fetch import dataset_files

    return dataset_files("digits")[1]
