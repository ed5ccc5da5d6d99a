"""Where networks compute, in which precision, and how much memory they take."""
