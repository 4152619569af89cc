"""The retraining job: a served champion → a challenger that is judged, tried by the service, and promoted or not."""
