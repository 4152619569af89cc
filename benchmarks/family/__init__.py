"""What each part of the residual family learns, and that it is exported, published, served and seen into."""
