"""Pages that people look at: the demo, generation results, evaluation galleries."""
