"""Who calls migrate_pages(): system calls, and callers inside the kernel."""
