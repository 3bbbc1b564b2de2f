"""The benchmark of the data plane: what `manage.py bench` starts, loads, measures and prints."""
