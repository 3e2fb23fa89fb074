"""Training: the plan, the features, the stages, the steps and the checkpoints."""
