"""The options of each command, a file for each; nothing here runs a command."""
