"""The service as several processes: one that supervises, workers that serve, one that observes."""
