"""Which versions of the models are served: decided in one place, by all processes or by none."""
