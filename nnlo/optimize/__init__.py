"""Search for hyper-parameters in blocks of ranks."""
