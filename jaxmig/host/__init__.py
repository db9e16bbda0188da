"""The machine that jaxmig runs on: its files, terminal, node lists, words of errors."""
