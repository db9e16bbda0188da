"""What each command's command line may hold: a file a command, without its work."""
