"""Linux's rules, each once: releases, the checks of an attempt, passes, phases, flushes."""
