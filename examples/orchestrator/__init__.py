"""A small, complete orchestrator on worker_adapters: Flask on waitress, events out, replay, placement by free slots."""
