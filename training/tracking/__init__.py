"""What MLflow is told of a run: kept in the run's folder first, and sent by a process that training never waits for."""
