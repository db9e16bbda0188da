"""Programs that run while their memory migrates: pmbench, memhog, migspeed, a trace."""
