"""Memory and arithmetic of code that is run on tensors without data."""
