"""The package `inrflow` of an installation, what Python users import; the build installs it at the top level."""
