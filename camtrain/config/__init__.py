"""The configuration: options, the schema, its checks, and how Hydra fills it in."""
