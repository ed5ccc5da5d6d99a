"""The face animator: a feed-forward network that moves one portrait by a pose of 45 numbers."""
