"""Training: the plan, the model, its features, and the stages that fit it."""
