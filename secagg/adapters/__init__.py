"""One file an engine, each the only importer of its engine."""
