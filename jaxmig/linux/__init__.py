"""Linux's rules, each in one place: releases, checks, passes, phases, flushes."""
