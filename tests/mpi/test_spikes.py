"""Spikes of the loss: found, told from noise, and no more than once for a new level."""

import logging

import numpy as np

from nnlo.mpi.spikes import WARM_UP, Spikes


def after(values):
    spikes = Spikes()
    found = [i for i, value in enumerate(values) if spikes.see(float(value))]
    return spikes, found


def noise(n, seed=0):
    return np.random.default_rng(seed).normal(1.0, 0.1, n)


def test_noise_and_a_falling_loss_are_no_spikes():
    assert after(noise(10_000))[1] == []
    assert after(5.0 * 0.99 ** np.arange(1000) * noise(1000))[1] == []


def test_a_jump_is_found_and_does_not_hide_the_next():
    values = noise(300)
    values[[200, 220]] = 50.0
    assert after(values)[1] == [200, 220]


def test_nothing_is_a_spike_while_little_is_known():
    values = noise(WARM_UP)
    values[-1] = 50.0
    assert after(values)[1] == []


def test_less_than_twice_the_usual_is_no_spike_however_steady_it_was():
    assert after([1.0] * 200 + [1.9])[1] == []
    assert after([1.0] * 200 + [2.1])[1] == [200]


def test_negative_losses_have_spikes_too():
    assert after([*(noise(200) - 10.0), 50.0])[1] == [200]


def test_a_new_level_becomes_the_usual_one():
    spikes, found = after([1.0] * 200 + [3.0] * 2000)
    assert found[-1] < 600
    assert abs(spikes.mean - 3.0) < 0.1


def test_mean_and_first_moments_are_those_of_the_values():
    values = noise(100)
    assert np.isclose(after(values)[0].mean, values.mean())


def test_warnings_name_rank_and_epoch_and_come_ever_more_seldom(caplog):
    spikes = Spikes()
    with caplog.at_level(logging.WARNING):
        for value in [1.0] * 100 + [1.0, 90.0] * 10:
            spikes.watch(value, rank=3, epoch=2)
    assert len(caplog.records) == 4
    assert "the loss of rank 3 in epoch 2 is 90 where 1 is usual; 1 such" in caplog.text
