"""Networks that say how sure they are: variational layers, particles, predictions."""
