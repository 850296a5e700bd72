"""Floods: what those do to a broker with keys who mean harm, or know no better, and what the others notice of it."""
