"""Runs the commands of the jobs that the broker leases to it, and tells how they ended."""
