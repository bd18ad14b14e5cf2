"""The mesh and where arrays live; how several processes join, agree, and hear of each other."""
