"""Triggers API: every event is delivered, fast, or becomes a dead letter that raises an alarm."""

__version__ = "1.1.0"
