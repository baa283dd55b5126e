"""The embedded models and example subjects, their toy world, and the models' training."""
