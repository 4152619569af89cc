"""Layer statistics: what is measured at every activation, per image and channel, and what it is called."""
