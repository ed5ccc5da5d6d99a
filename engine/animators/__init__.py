"""Everything that moves a picture."""
