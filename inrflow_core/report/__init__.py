"""Report data into one HTML file."""
