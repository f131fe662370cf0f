"""The vector spaces, their indexes, and searching them."""
