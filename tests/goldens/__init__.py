"""Folders of numbers that the authors' own code made, and our code's distance from them."""
