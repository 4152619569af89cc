"""What is wrong with a served network: rules that compare a window of traffic with the baseline."""
