"""Cameras, rigid motion, point clouds and meshes."""
