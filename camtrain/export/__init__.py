"""A trained network with its class activation map as one file for other runtimes."""
