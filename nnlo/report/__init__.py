"""Pictures and files for people: TensorBoard events, timelines."""
