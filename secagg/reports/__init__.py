"""What people read after a run: self-contained pages made from recorded numbers alone."""
