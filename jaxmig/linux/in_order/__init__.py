"""A batch one folio after another, where one folio decides what the next one finds."""
