"""From a model to samples: requests, fields, files."""
