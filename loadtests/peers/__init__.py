"""What the figures are compared with, where a peer is more than a call of a library."""
