/* shrink.c: takes out of a compiled program what can make no difference. */
#include "seccomp/shrink.h"

#include <stdbool.h>
#include <stdlib.h>

/*
 * "Load a word, and it with 0, go on if the result is 0": always goes on. What was loaded is gone; that the next
 * instruction loads another word makes sure that nobody misses it.
 */
static bool is_idle_test(const struct sock_filter *c)
{
	return c[0].code == (BPF_LD | BPF_W | BPF_ABS) && c[1].code == (BPF_ALU | BPF_AND | BPF_K) && c[1].k == 0 &&
	       c[2].code == (BPF_JMP | BPF_JEQ | BPF_K) && c[2].k == 0 && c[2].jt == 0 &&
	       c[3].code == (BPF_LD | BPF_W | BPF_ABS);
}

static bool is_jump_to(const struct sock_filter *code, uint32_t from, uint32_t to)
{
	const struct sock_filter *c = &code[from];

	if (BPF_CLASS(c->code) != BPF_JMP)
		return false;
	return BPF_OP(c->code) == BPF_JA ? from + 1 + c->k == to : from + 1 + c->jt == to || from + 1 + c->jf == to;
}

/* From elsewhere into the middle of the test at i, which would make another test of it. */
static bool is_entered_halfway(const struct sock_filter *code, uint32_t i)
{
	uint32_t from;

	for (from = 0; from < i; from++) {
		if (is_jump_to(code, from, i + 1) || is_jump_to(code, from, i + 2))
			return true;
	}
	return false;
}

/* Jumps go forward only, and get shorter. A jump to what is gone goes to what comes after it. */
static void move_jumps(struct sock_filter *c, uint32_t from, const uint32_t *at)
{
	if (BPF_CLASS(c->code) != BPF_JMP)
		return;
	if (BPF_OP(c->code) == BPF_JA) {
		c->k = at[from + 1 + c->k] - at[from] - 1;
		return;
	}
	c->jt = (uint8_t)(at[from + 1 + c->jt] - at[from] - 1);
	c->jf = (uint8_t)(at[from + 1 + c->jf] - at[from] - 1);
}

uint32_t bpf_shrink(struct sock_filter *code, uint32_t nr)
{
	uint32_t *at = calloc(nr + 1, sizeof(*at)); /* where each instruction will be */
	bool *gone = calloc(nr + 1, sizeof(*gone));
	uint32_t i, left = 0;

	for (i = 0; at && gone && i + 3 < nr; i++) {
		if (is_idle_test(code + i) && !is_entered_halfway(code, i))
			gone[i] = gone[i + 1] = gone[i + 2] = true;
	}
	for (i = 0; at && gone && i < nr; i++) {
		at[i] = left;
		left += !gone[i];
	}
	for (i = 0; at && gone && i < nr; i++) {
		if (gone[i])
			continue;
		move_jumps(&code[i], i, at);
		code[at[i]] = code[i];
	}
	if (!at || !gone)
		left = nr; /* without memory it stays as it is */
	free(at);
	free(gone);
	return left;
}
