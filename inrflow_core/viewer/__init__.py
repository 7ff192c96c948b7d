"""Show functions of trained runs on a local page: record a field, evaluate what the page requests, serve it."""
