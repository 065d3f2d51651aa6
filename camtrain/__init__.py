"""camtrain: train an image classifier with and without concentrated class activation maps, and compare."""
