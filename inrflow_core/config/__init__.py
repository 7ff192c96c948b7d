"""Presets: TOML into typed settings. Imports no torch."""
