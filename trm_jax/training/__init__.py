"""Deep supervision: the step, the loop, and the run in its folder."""
