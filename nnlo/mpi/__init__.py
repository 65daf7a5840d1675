"""Master, workers and the messages between them."""
