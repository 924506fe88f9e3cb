"""Reading training data from files, or generating it. No PyTorch."""
