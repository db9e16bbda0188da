/* What `probe.py` carries as x86-64 machine code: loops too short for an interpreter.
 * No library, no data, no relocation.  Built with
 *   gcc -O2 -ffreestanding -fcf-protection=none -fno-stack-protector \
 *       -fno-toplevel-reorder -fno-tree-loop-distribute-patterns -fPIE -c probe.c
 *   objcopy -O binary -j .text probe.o probe.bin
 */
typedef unsigned long u64;
enum { PAGE = 4096, READ = 1, WRITE = 2, NR_mprotect = 10, NR_futex = 202 };

static inline u64 now(void)
{
	unsigned int lo, hi;
	__asm__ volatile("lfence; rdtsc; lfence" : "=a"(lo), "=d"(hi)::"memory");
	return (u64)hi << 32 | lo;
}

static inline long call(long nr, u64 a, u64 b, u64 c)
{
	register long none __asm__("r10") = 0;
	long ret;
	__asm__ volatile("syscall" : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(none)
			 : "rcx", "r11", "memory");
	return ret;
}

/* Ticks of `times` calls that take the right to write from pages that were written. */
u64 protect(volatile char *area, u64 pages, u64 times)
{
	u64 ticks = 0;

	while (times--) {
		for (u64 i = 0; i < pages; i++)
			area[i * PAGE] = 1;
		u64 start = now();
		call(NR_mprotect, (u64)area, pages * PAGE, READ);
		ticks += now() - start;
		call(NR_mprotect, (u64)area, pages * PAGE, READ | WRITE);
	}
	return ticks;
}

/* Runs until *stop; notes gaps of at least `least` ticks between two looks at the clock. */
u64 spin(volatile u64 *stop, u64 *gaps, u64 room, u64 least)
{
	u64 n = 0, last = now();

	while (!*stop) {
		u64 t = now();
		if (t - last >= least && n < room)
			gaps[n++] = t - last;
		last = t;
	}
	return n;
}

/* Ticks of copying pages in order. */
u64 copy(char *to, const char *from, u64 pages)
{
	u64 start = now();

	while (pages--) {
		u64 n = PAGE;
		__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n)::"memory");
	}
	return now() - start;
}

/* Ticks of loads whose address the load before gave. */
u64 chase(u64 *at, u64 steps)
{
	u64 start = now();

	while (steps--)
		at = *(u64 *volatile *)at;
	return now() - start + !at;
}

/* Ticks of the first read of each page. */
u64 touch(volatile char *area, u64 pages)
{
	u64 start = now();

	for (u64 i = 0; i < pages; i++)
		(void)area[i * PAGE];
	return now() - start;
}

/* One end of a ping-pong: waits for its number in *word, writes the other's, wakes it. */
u64 ping(volatile unsigned int *word, u64 me, u64 trips)
{
	u64 start = now();

	while (trips--) {
		while (*word != me)
			call(NR_futex, (u64)word, 128, !me); /* FUTEX_WAIT_PRIVATE */
		*word = !me;
		call(NR_futex, (u64)word, 129, 1); /* FUTEX_WAKE_PRIVATE */
	}
	return now() - start;
}
