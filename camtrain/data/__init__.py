"""Images: where they come from, how they are decoded and augmented, and how they become batches."""
