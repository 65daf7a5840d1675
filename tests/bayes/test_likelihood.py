"""What outputs mean, by loss and family."""

import numpy as np
import pytest
from scipy.special import expit, log_softmax, softmax

from nnlo.bayes.likelihood import LEAST, Classes, Values, likelihood_of
from nnlo.errors import ConfigError, DataError, ModelError

LOGITS = np.random.default_rng(0).normal(size=(4, 7, 3)).astype(np.float32)


def test_logits_and_what_log_softmax_makes_of_them_are_equally_right():
    torch = likelihood_of("categorical_crossentropy", is_torch=True)
    expected = log_softmax(LOGITS.astype(float), axis=-1)
    np.testing.assert_allclose(torch.read(LOGITS), expected, rtol=1e-12)
    np.testing.assert_allclose(torch.read(expected), expected, rtol=1e-12)


def test_outputs_of_keras_are_probabilities_cut_as_its_loss_cuts_them():
    keras = likelihood_of("sparse_categorical_crossentropy", is_torch=False)
    read = keras.read(softmax(LOGITS, axis=-1))
    np.testing.assert_allclose(read, log_softmax(LOGITS, axis=-1), atol=1e-6)
    assert keras.read(np.array([[[1.0, 0.0]]]))[0, 0, 1] == np.log(LEAST)


@pytest.mark.parametrize("shape", [(4, 7), (4, 7, 1)])
def test_one_output_is_a_question_of_two_classes(shape):
    raw = LOGITS[:, :, 0].reshape(shape)
    for is_torch, outputs in ((True, raw), (False, expit(raw))):
        read = likelihood_of("binary_crossentropy", is_torch=is_torch).read(outputs)
        assert read.shape == (4, 7, 2)
        np.testing.assert_allclose(np.exp(read[..., 1]), expit(LOGITS[:, :, 0]), atol=1e-6)


def test_an_image_of_classes_is_a_point_a_pixel_in_either_order_of_axes():
    keras, torch = LOGITS.reshape(1, 2, 2, 7, 3), LOGITS.reshape(1, 2, 2, 7, 3)
    one = Classes(from_logits=False).read(softmax(keras, axis=-1))
    other = Classes(from_logits=True).read(np.moveaxis(torch, -1, 2))
    assert one.shape == (1, 28, 3)
    np.testing.assert_allclose(one, other, atol=1e-6)
    one_hot = np.eye(3)[np.arange(28) % 3].reshape(2, 2, 7, 3)
    numbers = Classes(from_logits=True).labels(np.moveaxis(one_hot, -1, 1), 28, 3)
    np.testing.assert_array_equal(numbers, np.arange(28) % 3)


@pytest.mark.parametrize("is_torch", [True, False])
def test_raw_scales_are_those_of_the_loss(is_torch):
    values = likelihood_of("gaussian_nll", is_torch=is_torch)
    means, scales = values.read(LOGITS[:, :, :2])
    np.testing.assert_array_equal(means, LOGITS[:, :, :1])
    np.testing.assert_allclose(scales, np.log1p(np.exp(LOGITS[:, :, 1:2])) + 1e-6, rtol=1e-6)


def test_values_have_the_noise_that_the_user_knows_or_none():
    assert likelihood_of("mse", is_torch=True).read(LOGITS)[1] is None
    means, scales = likelihood_of("mae", is_torch=False, noise=0.3).read(LOGITS[:, :, 0])
    assert means.shape == (4, 7, 1)
    assert np.all(scales == 0.3)


@pytest.mark.parametrize(
    ("loss", "noise", "says"),
    [
        ("hinge", None, "classes or values"),
        (abs, None, "name of one loss"),
        (["mse", "mse"], None, "name of one loss"),
        ("mse", 0.0, "above 0"),
        ("gaussian_nll", 1.0, "tells it itself"),
        ("binary_crossentropy", 1.0, "no noise"),
    ],
)
def test_what_is_no_likelihood_is_refused(loss, noise, says):
    with pytest.raises(ConfigError, match=says):
        likelihood_of(loss, is_torch=True, noise=noise)


def test_labels_are_class_numbers_or_one_hot():
    classes = Classes(from_logits=False)
    np.testing.assert_array_equal(classes.labels(np.eye(3)[[2, 0]], 2, 3), [2, 0])
    np.testing.assert_array_equal(classes.labels(np.array([[2.0], [0.0]]), 2, 3), [2, 0])
    for wrong, says in ((np.array([3, 0]), "in 0..2"), (np.zeros((2, 2)), "one-hot of 3")):
        with pytest.raises(DataError, match=says):
            classes.labels(wrong, 2, 3)


def test_a_diverged_draw_is_an_error_and_no_number():
    bad = LOGITS.copy()
    bad[1, 2, 0] = np.nan
    with pytest.raises(ModelError, match="1 of 4 draws"):
        Values().read(bad)


@pytest.mark.parametrize("wrong", [0.3, np.nan])
def test_labels_between_two_classes_are_not_rounded(wrong):
    with pytest.raises(DataError, match=f"classes must be whole numbers, got {wrong}"):
        Classes(from_logits=True).labels(np.array([1.0, wrong]), 2, 3)


@pytest.mark.parametrize(
    ("loss", "shape"),
    [("mse", (4, 0, 1)), ("gaussian_nll", (4, 0, 2)), ("categorical_crossentropy", (4, 0, 3))],
)
@pytest.mark.parametrize("is_torch", [False, True])
def test_no_points_are_no_error(loss, shape, is_torch):
    """A rank may have none of the last chunk."""
    found = likelihood_of(loss, is_torch=is_torch).read(np.zeros(shape, np.float32))
    first = found[0] if isinstance(found, tuple) else found
    assert first.shape[:2] == (4, 0)
