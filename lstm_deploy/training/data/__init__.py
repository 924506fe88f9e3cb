"""Training data: read from files or generated, and split. No PyTorch."""
