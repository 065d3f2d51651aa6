"""What is measured of maps and predictions: pure functions, and the table of all indicators."""
