"""One module per kind of data set: where its images, targets and regions come from."""
