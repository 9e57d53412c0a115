"""Peak memory of a way of training: predicted before a model is loaded, and measured."""
