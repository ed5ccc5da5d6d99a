"""Everything that moves a picture: the pose-driven animator with its sampler, and the laboratory's victims."""
