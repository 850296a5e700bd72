"""Machines with networks of their own: what people are told to do there, and links that fail."""
