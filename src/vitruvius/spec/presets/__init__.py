"""The presets: one YAML file each, read by name."""
