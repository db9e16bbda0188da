"""How a call is executed: in windows of its list, page by page, on many devices."""
