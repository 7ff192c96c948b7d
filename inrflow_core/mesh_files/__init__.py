"""Mesh files: OBJ, GLB, PLY, OFF and STL as triangles with their colors, and what they have beyond is refused by name."""
