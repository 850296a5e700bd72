"""The store on a disk of the tests' own: the power is cut at every moment of its work, every operation fails once."""
