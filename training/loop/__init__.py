"""A network and a data set → trained weights: step by step, resumable after each, on any number of processes."""
