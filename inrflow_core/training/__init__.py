"""The trainer: the step, the engine, checkpoints and the run folder."""
