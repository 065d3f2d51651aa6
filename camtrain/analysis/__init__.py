"""What the measurements say: intervals, comparison, verdict."""
