"""One file or folder an engine, each the only importer of its engine."""
