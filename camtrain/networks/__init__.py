"""Networks that give logits and the activations of one layer in one forward pass."""
