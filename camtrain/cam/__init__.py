"""Class activation maps: which classes' maps, their scores, gradients and methods."""
