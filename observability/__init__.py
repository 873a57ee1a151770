"""What an operator puts on top of the metrics; `python -m observability` writes it all from the tables."""
