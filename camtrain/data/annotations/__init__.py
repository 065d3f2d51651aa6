"""What label tools export: a module for each format, one that finds the files, and one that finds their images."""
