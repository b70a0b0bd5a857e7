"""The presets, each against its source."""
