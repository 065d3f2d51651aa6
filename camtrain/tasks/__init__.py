"""One module per `task=`: each puts the other packages together."""
