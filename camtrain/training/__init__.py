"""Training: arms, the step, the loop, and the state from which it can go on."""
