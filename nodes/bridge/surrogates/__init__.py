"""Networks of sockets and of our own, as losses look through them."""
