"""Run folders: find, read and export what training wrote."""
