"""The command line: speaks to people and scripts, asks the broker, decides nothing."""
