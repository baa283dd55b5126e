"""The embedded models and example subjects, the toy world they know, and how they are trained."""
