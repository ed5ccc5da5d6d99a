"""How networks are run: in half precision, in tiles, with shapes alone, unpatched."""
