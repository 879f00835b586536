/* test_queue.c: the split ring against drivers that keep the rules, and against those that do not. */
#include "unit.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "vring.h"

#define MEM_MIB  4
#define MEM_SIZE ((uint64_t)MEM_MIB << 20)
#define N        VRING_DESC_F_NEXT
#define W        VRING_DESC_F_WRITE
#define I        VRING_DESC_F_INDIRECT
#define DATA     VRING_DATA_GPA
#define TABLE    VRING_TABLE_GPA

struct fixture {
	struct guest_memory gm;
	struct virtqueue vq;
	struct driver_ring ring;
	struct iovec iov[VIRTQUEUE_MAX_SIZE];
	struct vq_chain chain;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct error err = { 0 };

	if (!f || gm_create(&f->gm, MEM_MIB, HUGE_PAGES_NONE, &err))
		return -1;
	driver_ring_init(&f->ring, &f->gm, &f->vq, 16);
	f->chain.iov = f->iov;
	f->chain.iov_max = VIRTQUEUE_MAX_SIZE;
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	gm_destroy(&f->gm);
	free(f);
	return 0;
}

static void test_check(void **state)
{
	static const struct {
		uint16_t size;
		uint64_t desc, avail, used;
		int expected;
	} cases[] = {
		{ 1, 0x1000, 0x3000, 0x5000, 0 },
		{ 16, 0x1000, 0x3000, 0x5000, 0 },
		{ 256, 0x1000, 0x3000, 0x5000, 0 },
		{ 0, 0x1000, 0x3000, 0x5000, -EINVAL },
		{ 3, 0x1000, 0x3000, 0x5000, -EINVAL },
		{ 512, 0x1000, 0x3000, 0x5000, -EINVAL },
		{ 32768, 0x1000, 0x3000, 0x5000, -EINVAL },
		{ 65535, 0x1000, 0x3000, 0x5000, -EINVAL },
		{ 16, 0x1008, 0x3000, 0x5000, -EINVAL },
		{ 16, 0x1000, 0x3001, 0x5000, -EINVAL },
		{ 16, 0x1000, 0x3000, 0x5002, -EINVAL },
		{ 16, MEM_SIZE, 0x3000, 0x5000, -EINVAL },
		{ 16, MEM_SIZE - 16 * 16, 0x3000, 0x5000, 0 },
		{ 16, MEM_SIZE - 16 * 15, 0x3000, 0x5000, -EINVAL },
		{ 16, 0x1000, MEM_SIZE - 38, 0x5000, 0 },
		{ 16, 0x1000, MEM_SIZE - 36, 0x5000, -EINVAL },
		{ 16, 0x1000, 0x3000, MEM_SIZE - 136, 0 },
		{ 16, 0x1000, 0x3000, MEM_SIZE - 132, -EINVAL },
		{ 16, UINT64_MAX - 15, 0x3000, 0x5000, -EINVAL },
		{ 16, 0x1000, UINT64_MAX - 1, 0x5000, -EINVAL },
		{ 16, 0x1000, 0x3000, UINT64_MAX - 3, -EINVAL },
	};
	struct fixture *f = *state;
	unsigned int i;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		f->vq.size = cases[i].size;
		f->vq.desc_gpa = cases[i].desc;
		f->vq.avail_gpa = cases[i].avail;
		f->vq.used_gpa = cases[i].used;
		if (vq_check(&f->vq) != cases[i].expected)
			fail_msg("case %u: %d, not %d", i, vq_check(&f->vq), cases[i].expected);
	}
	f->vq.size = 64;
	f->vq.max_size = 32;
	assert_int_equal(vq_check(&f->vq), -EINVAL);
}

static void test_reset(void **state)
{
	struct fixture *f = *state;

	f->vq.next_avail = 5;
	vq_reset(&f->vq);
	assert_false(f->vq.ready);
	assert_int_equal(f->vq.next_avail, 0);
	assert_int_equal(f->vq.desc_gpa, 0);
	assert_int_equal(f->vq.max_size, VIRTQUEUE_MAX_SIZE);
	assert_ptr_equal(f->vq.gm, &f->gm);
	assert_false(vq_should_interrupt(&f->vq));
}

static void test_simple_chain(void **state)
{
	struct fixture *f = *state;

	driver_desc(&f->ring, 3, DATA, 16, N, 7);
	driver_desc(&f->ring, 7, DATA + 0x100, 0x200, N | W, 1);
	driver_desc(&f->ring, 1, DATA + 0x400, 1, W, 99);
	driver_offer(&f->ring, 3);
	assert_int_equal(vq_pop(&f->vq, &f->chain), 1);
	assert_int_equal(f->chain.head, 3);
	assert_int_equal(f->chain.nr_out, 1);
	assert_int_equal(f->chain.nr_in, 2);
	assert_int_equal(f->chain.out_len, 16);
	assert_int_equal(f->chain.in_len, 0x201);
	assert_ptr_equal(f->iov[0].iov_base, guest(&f->gm, DATA));
	assert_ptr_equal(f->iov[1].iov_base, guest(&f->gm, DATA + 0x100));
	assert_int_equal(f->iov[1].iov_len, 0x200);
	assert_ptr_equal(f->iov[2].iov_base, guest(&f->gm, DATA + 0x400));
	assert_int_equal(vq_push(&f->vq, 3, 0x201), 0);
	assert_int_equal(f->ring.used->idx, 1);
	assert_int_equal(f->ring.used->ring[0].id, 3);
	assert_int_equal(f->ring.used->ring[0].len, 0x201);
	assert_int_equal(vq_pop(&f->vq, &f->chain), 0);
}

static void put_table(struct fixture *f, unsigned int i, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
	struct vring_desc *table = guest(&f->gm, TABLE);

	table[i] = (struct vring_desc){ .addr = addr, .len = len, .flags = flags, .next = next };
}

/* 2.7.5.3.2: direct descriptors, then one that refers to a table (whose WRITE flag means nothing). */
static void test_direct_then_indirect(void **state)
{
	struct fixture *f = *state;

	driver_desc(&f->ring, 0, DATA, 16, N, 1);
	driver_desc(&f->ring, 1, TABLE, 3 * 16, I | W, 0);
	put_table(f, 0, DATA + 0x100, 10, N, 2);
	put_table(f, 2, DATA + 0x200, 20, N | W, 1);
	put_table(f, 1, DATA + 0x300, 30, W, 0);
	driver_offer(&f->ring, 0);
	assert_int_equal(vq_pop(&f->vq, &f->chain), 1);
	assert_int_equal(f->chain.nr_out, 2);
	assert_int_equal(f->chain.nr_in, 2);
	assert_int_equal(f->chain.out_len, 26);
	assert_int_equal(f->chain.in_len, 50);
}

/* Chains as long as they may be: the queue's size, and in a table what the device offered. */
static void test_longest_chains(void **state)
{
	struct fixture *f = *state;
	unsigned int i;

	for (i = 0; i < 16; i++)
		driver_desc(&f->ring, i, DATA + i, 1, i < 15 ? N : 0, (uint16_t)(i + 1));
	driver_offer(&f->ring, 0);
	assert_int_equal(vq_pop(&f->vq, &f->chain), 1);
	assert_int_equal(f->chain.nr_out, 16);
	for (i = 0; i < VIRTQUEUE_MAX_SIZE; i++)
		put_table(f, i, DATA + i, 1, i < VIRTQUEUE_MAX_SIZE - 1 ? N : 0, (uint16_t)(i + 1));
	driver_desc(&f->ring, 0, TABLE, VIRTQUEUE_MAX_SIZE * 16, I, 0);
	driver_offer(&f->ring, 0);
	assert_int_equal(vq_pop(&f->vq, &f->chain), 1);
	assert_int_equal(f->chain.nr_out, VIRTQUEUE_MAX_SIZE);
}

struct bad_chain {
	const char *name;
	int expected;
	uint16_t head;
	struct vring_desc direct[4], table[4];
	unsigned int iov_max;
	bool no_indirect;
};

#define D(addr, len, flags, next)      \
	{                              \
		addr, len, flags, next \
	}

static const struct bad_chain bad_chains[] = {
	{ "head is the queue size", -ERANGE, 16, { D(DATA, 1, 0, 0) }, { D(0, 0, 0, 0) }, 0, false },
	{ "head 65535", -ERANGE, 65535, { D(DATA, 1, 0, 0) }, { D(0, 0, 0, 0) }, 0, false },
	{ "next is the queue size", -ERANGE, 0, { D(DATA, 1, N, 16) }, { D(0, 0, 0, 0) }, 0, false },
	{ "next 65535", -ERANGE, 0, { D(DATA, 1, N, 65535) }, { D(0, 0, 0, 0) }, 0, false },
	{ "loop to itself", -ELOOP, 0, { D(DATA, 1, N, 0) }, { D(0, 0, 0, 0) }, 0, false },
	{ "loop of two", -ELOOP, 0, { D(DATA, 1, N, 1), D(DATA, 1, N, 0) }, { D(0, 0, 0, 0) }, 0, false },
	{ "loop behind a head", -ELOOP, 0, { D(DATA, 1, N, 1), D(DATA, 1, N | W, 1) }, { D(0, 0, 0, 0) }, 0, false },
	{ "length 0", -ENODATA, 0, { D(DATA, 0, 0, 0) }, { D(0, 0, 0, 0) }, 0, false },
	{ "length 0, writable", -ENODATA, 0, { D(DATA, 0, W, 0) }, { D(0, 0, 0, 0) }, 0, false },
	{ "length 0 at the end", -ENODATA, 0, { D(DATA, 4, N, 1), D(DATA, 0, W, 0) }, { D(0, 0, 0, 0) }, 0, false },
	{ "address at the end of RAM", -EFAULT, 0, { D(MEM_SIZE, 1, 0, 0) }, { D(0, 0, 0, 0) }, 0, false },
	{ "buffer across the end", -EFAULT, 0, { D(MEM_SIZE - 1, 2, 0, 0) }, { D(0, 0, 0, 0) }, 0, false },
	{ "address in the device hole", -EFAULT, 0, { D(0xC0001000, 4, W, 0) }, { D(0, 0, 0, 0) }, 0, false },
	{ "address 2^63", -EFAULT, 0, { D(1ull << 63, 4, W, 0) }, { D(0, 0, 0, 0) }, 0, false },
	{ "address that wraps", -EFAULT, 0, { D(UINT64_MAX, 2, W, 0) }, { D(0, 0, 0, 0) }, 0, false },
	{ "address that wraps to 0", -EFAULT, 0, { D(UINT64_MAX - 0xFFF, 0x2000, W, 0) }, { D(0, 0, 0, 0) }, 0, false },
	{ "length 2^32 - 1", -EFAULT, 0, { D(DATA, UINT32_MAX, 0, 0) }, { D(0, 0, 0, 0) }, 0, false },
	{ "second buffer outside RAM",
	  -EFAULT,
	  0,
	  { D(DATA, 4, N, 1), D(MEM_SIZE, 4, W, 0) },
	  { D(0, 0, 0, 0) },
	  0,
	  false },
	{ "readable after writable",
	  -EBADMSG,
	  0,
	  { D(DATA, 4, N | W, 1), D(DATA, 4, 0, 0) },
	  { D(0, 0, 0, 0) },
	  0,
	  false },
	{ "readable, writable, readable",
	  -EBADMSG,
	  0,
	  { D(DATA, 4, N, 1), D(DATA, 4, N | W, 2), D(DATA, 4, 0, 0) },
	  { D(0, 0, 0, 0) },
	  0,
	  false },
	{ "indirect not acknowledged", -EPROTO, 0, { D(TABLE, 16, I, 0) }, { D(DATA, 4, 0, 0) }, 0, true },
	{ "indirect with next",
	  -EPROTO,
	  0,
	  { D(TABLE, 16, I | N, 1), D(DATA, 4, 0, 0) },
	  { D(DATA, 4, 0, 0) },
	  0,
	  false },
	{ "table of length 0", -EPROTO, 0, { D(TABLE, 0, I, 0) }, { D(DATA, 4, 0, 0) }, 0, false },
	{ "table of 15 bytes", -EPROTO, 0, { D(TABLE, 15, I, 0) }, { D(DATA, 4, 0, 0) }, 0, false },
	{ "table of 17 bytes", -EPROTO, 0, { D(TABLE, 17, I, 0) }, { D(DATA, 4, 0, 0) }, 0, false },
	{ "table outside RAM", -EFAULT, 0, { D(MEM_SIZE, 16, I, 0) }, { D(0, 0, 0, 0) }, 0, false },
	{ "table across the end", -EFAULT, 0, { D(MEM_SIZE - 16, 32, I, 0) }, { D(0, 0, 0, 0) }, 0, false },
	{ "table whose end wraps", -EFAULT, 0, { D(UINT64_MAX - 15, 32, I, 0) }, { D(0, 0, 0, 0) }, 0, false },
	{ "table of nearly 4 GiB", -EFAULT, 0, { D(TABLE, 0xFFFFFFF0, I, 0) }, { D(DATA, 4, N, 0) }, 0, false },
	{ "table in a table", -EPROTO, 0, { D(TABLE, 32, I, 0) }, { D(TABLE, 16, I, 0) }, 0, false },
	{ "next beyond the table",
	  -ERANGE,
	  0,
	  { D(TABLE, 32, I, 0) },
	  { D(DATA, 4, N, 2), D(DATA, 4, 0, 0) },
	  0,
	  false },
	{ "loop in a table", -ELOOP, 0, { D(TABLE, 32, I, 0) }, { D(DATA, 4, N, 1), D(DATA, 4, N, 0) }, 0, false },
	{ "length 0 in a table", -ENODATA, 0, { D(TABLE, 16, I, 0) }, { D(DATA, 0, 0, 0) }, 0, false },
	{ "outside RAM in a table", -EFAULT, 0, { D(TABLE, 16, I, 0) }, { D(MEM_SIZE, 1, 0, 0) }, 0, false },
	{ "readable after writable in a table",
	  -EBADMSG,
	  0,
	  { D(TABLE, 32, I, 0) },
	  { D(DATA, 4, N | W, 1), D(DATA, 4, 0, 0) },
	  0,
	  false },
	{ "readable table entry after a writable one",
	  -EBADMSG,
	  0,
	  { D(DATA, 4, N | W, 1), D(TABLE, 16, I, 0) },
	  { D(DATA, 4, 0, 0) },
	  0,
	  false },
	{ "more buffers than there is room for",
	  -E2BIG,
	  0,
	  { D(DATA, 4, N, 1), D(DATA, 4, N, 2), D(DATA, 4, 0, 0) },
	  { D(0, 0, 0, 0) },
	  2,
	  false },
};

static void test_malformed_chains(void **state)
{
	struct fixture *f = *state;
	unsigned int i, k;
	int ret;

	for (i = 0; i < sizeof(bad_chains) / sizeof(bad_chains[0]); i++) {
		const struct bad_chain *b = &bad_chains[i];

		driver_ring_init(&f->ring, &f->gm, &f->vq, 16);
		f->vq.indirect = !b->no_indirect;
		f->chain.iov_max = b->iov_max ? b->iov_max : VIRTQUEUE_MAX_SIZE;
		for (k = 0; k < 4; k++) {
			f->ring.desc[k] = b->direct[k];
			put_table(f, k, b->table[k].addr, b->table[k].len, b->table[k].flags, b->table[k].next);
		}
		driver_offer(&f->ring, b->head);
		ret = vq_pop(&f->vq, &f->chain);
		if (ret != b->expected)
			fail_msg("%s: %d, not %d", b->name, ret, b->expected);
		assert_string_not_equal(vq_why(ret), vq_why(0));
	}
}

/* 2.7.4: no more than 2^32 bytes in a chain, though the same bytes may be named many times. */
static void test_chain_over_4gib(void **state)
{
	struct guest_memory big;
	struct error err = { 0 };
	struct fixture *f = *state;
	unsigned int i;

	assert_int_equal(gm_create(&big, 2048, HUGE_PAGES_NONE, &err), 0);
	driver_ring_init(&f->ring, &big, &f->vq, 16);
	for (i = 0; i < 5; i++)
		driver_desc(&f->ring, i, DATA, 1u << 30, i < 3 ? N : 0, (uint16_t)(i + 1));
	driver_offer(&f->ring, 0);
	assert_int_equal(vq_pop(&f->vq, &f->chain), 1);
	assert_true(f->chain.out_len == 1ull << 32);
	f->ring.desc[3].flags = N;
	driver_offer(&f->ring, 0);
	assert_int_equal(vq_pop(&f->vq, &f->chain), -EMSGSIZE);
	gm_destroy(&big);
}

static void test_avail_index_jumps(void **state)
{
	static const uint16_t bad[] = { 17, 18, 255, 32768, 65535 };
	struct fixture *f = *state;
	unsigned int i;

	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		driver_ring_init(&f->ring, &f->gm, &f->vq, 16);
		f->ring.avail->idx = bad[i];
		assert_int_equal(vq_pop(&f->vq, &f->chain), -EOVERFLOW);
	}
	/* Exactly full is fine, also where the index wraps. */
	driver_ring_init(&f->ring, &f->gm, &f->vq, 16);
	driver_desc(&f->ring, 0, DATA, 4, 0, 0);
	f->vq.next_avail = 65530;
	f->ring.avail->idx = (uint16_t)(65530 + 16);
	for (i = 0; i < 16; i++)
		assert_int_equal(vq_pop(&f->vq, &f->chain), 1);
	assert_int_equal(vq_pop(&f->vq, &f->chain), 0);
	/* Backwards looks like far ahead. */
	f->ring.avail->idx--;
	assert_int_equal(vq_pop(&f->vq, &f->chain), -EOVERFLOW);
}

static void test_unpop(void **state)
{
	struct fixture *f = *state;

	driver_desc(&f->ring, 2, DATA, 4, 0, 0);
	driver_offer(&f->ring, 2);
	assert_int_equal(vq_pop(&f->vq, &f->chain), 1);
	vq_unpop(&f->vq);
	f->chain.head = 99;
	assert_int_equal(vq_pop(&f->vq, &f->chain), 1);
	assert_int_equal(f->chain.head, 2);
	assert_int_equal(vq_pop(&f->vq, &f->chain), 0);
}

static void test_used_ring_wraps(void **state)
{
	struct fixture *f = *state;
	unsigned int i;

	for (i = 0; i < 70000; i++)
		assert_int_equal(vq_push(&f->vq, (uint16_t)(i % 16), i), 0);
	assert_int_equal(f->ring.used->idx, (uint16_t)70000);
	assert_int_equal(f->ring.used->ring[69999 % 16].len, 69999);
	f->vq.used_gpa = MEM_SIZE;
	assert_int_equal(vq_push(&f->vq, 0, 0), -EFAULT);
}

static bool push_and_ask(struct fixture *f, unsigned int n)
{
	while (n--)
		assert_int_equal(vq_push(&f->vq, 0, 0), 0);
	return vq_should_interrupt(&f->vq);
}

static void test_event_idx_interrupts(void **state)
{
	struct fixture *f = *state;

	assert_false(vq_should_interrupt(&f->vq));
	assert_true(push_and_ask(f, 1));           /* used_event 0: entry 0 was wanted */
	assert_false(vq_should_interrupt(&f->vq)); /* nothing new */
	assert_false(push_and_ask(f, 1));
	*driver_used_event(&f->ring) = 4;
	assert_false(push_and_ask(f, 2)); /* entries 2, 3 */
	assert_true(push_and_ask(f, 1));  /* entry 4 */
	*driver_used_event(&f->ring) = 7;
	assert_true(push_and_ask(f, 6)); /* 5 to 10, with 7 among them */
	assert_false(push_and_ask(f, 1000));
	*driver_used_event(&f->ring) = 1011;
	assert_true(push_and_ask(f, 1));
	*driver_used_event(&f->ring) = 65535;
	assert_false(push_and_ask(f, 64523));
	assert_true(push_and_ask(f, 1)); /* across the wrap */
	assert_int_equal(f->vq.next_used, 0);
	*driver_used_event(&f->ring) = 9;
	assert_true(push_and_ask(f, 65536)); /* once round: better one too many than none */
}

static void test_flags_interrupts(void **state)
{
	struct fixture *f = *state;

	f->vq.event_idx = false;
	assert_true(push_and_ask(f, 1));
	assert_false(vq_should_interrupt(&f->vq));
	f->ring.avail->flags = VRING_AVAIL_F_NO_INTERRUPT;
	assert_false(push_and_ask(f, 3));
	f->ring.avail->flags = 0;
	assert_true(push_and_ask(f, 1));
}

static void test_event_idx_kicks(void **state)
{
	struct fixture *f = *state;

	driver_desc(&f->ring, 0, DATA, 4, 0, 0);
	assert_int_equal(vq_pop(&f->vq, &f->chain), 0);
	assert_int_equal(driver_avail_event(&f->ring), 0);
	driver_offer(&f->ring, 0);
	driver_offer(&f->ring, 0);
	assert_int_equal(vq_pop(&f->vq, &f->chain), 1);
	assert_int_equal(driver_avail_event(&f->ring), 0); /* left behind: the next ones need no kick */
	assert_int_equal(vq_pop(&f->vq, &f->chain), 1);
	assert_int_equal(vq_pop(&f->vq, &f->chain), 0);
	assert_int_equal(driver_avail_event(&f->ring), 2);
}

/* Looking is not asking: the driver rings for a chain only after an empty vq_pop. */
static void test_waiting(void **state)
{
	struct fixture *f = *state;

	driver_desc(&f->ring, 0, DATA, 4, 0, 0);
	assert_false(vq_waiting(&f->vq));
	driver_offer(&f->ring, 0);
	assert_true(vq_waiting(&f->vq));
	assert_int_equal(vq_pop(&f->vq, &f->chain), 1);
	assert_false(vq_waiting(&f->vq));
	assert_int_equal(driver_avail_event(&f->ring), 0);
	assert_int_equal(vq_pop(&f->vq, &f->chain), 0);
	assert_int_equal(driver_avail_event(&f->ring), 1);
}

static void test_flags_kicks(void **state)
{
	struct fixture *f = *state;

	f->vq.event_idx = false;
	driver_desc(&f->ring, 0, DATA, 4, 0, 0);
	assert_int_equal(vq_pop(&f->vq, &f->chain), 0);
	assert_int_equal(f->ring.used->flags, 0);
	driver_offer(&f->ring, 0);
	assert_int_equal(vq_pop(&f->vq, &f->chain), 1);
	assert_int_equal(f->ring.used->flags, VRING_USED_F_NO_NOTIFY);
	assert_int_equal(vq_pop(&f->vq, &f->chain), 0);
	assert_int_equal(f->ring.used->flags, 0);
}

/* The driver adds a chain at the worst moment: just as the device asks for a kick, so that none comes (2.7.10.1). */
static struct fixture *at_worst;

static void offer_at_worst(int signo)
{
	(void)signo;
	mprotect(at_worst->ring.used, 4096, PROT_READ | PROT_WRITE);
	driver_offer(&at_worst->ring, 0);
}

static void offered_while_rearming(struct fixture *f, bool event_idx)
{
	struct sigaction act = { .sa_handler = offer_at_worst }, old;

	driver_ring_init(&f->ring, &f->gm, &f->vq, 16);
	f->vq.event_idx = event_idx;
	driver_desc(&f->ring, 0, DATA, 4, 0, 0);
	driver_offer(&f->ring, 0);
	assert_int_equal(vq_pop(&f->vq, &f->chain), 1);
	at_worst = f;
	sigaction(SIGSEGV, &act, &old);
	mprotect(f->ring.used, 4096, PROT_READ);
	assert_int_equal(vq_pop(&f->vq, &f->chain), 1);
	sigaction(SIGSEGV, &old, NULL);
	assert_int_equal(f->vq.next_avail, 2);
	assert_int_equal(vq_pop(&f->vq, &f->chain), 0);
}

static void test_offered_while_rearming(void **state)
{
	offered_while_rearming(*state, true);
	offered_while_rearming(*state, false);
}

/* Random bytes for rings and tables: whatever comes out lies in RAM and within the bounds. */
static void test_random_rings(void **state)
{
	struct fixture *f = *state;
	uint64_t rng = 88172645463325252ull;
	unsigned int round, i, taken = 0;
	uint16_t *words;

	for (round = 0; round < 20000; round++) {
		driver_ring_init(&f->ring, &f->gm, &f->vq, 16);
		words = guest(&f->gm, VRING_DESC_GPA);
		for (i = 0; i < 16 * 8; i++) {
			rng ^= rng << 13, rng ^= rng >> 7, rng ^= rng << 17;
			/* Mostly small numbers: they get further. */
			words[i] = (uint16_t)(rng >> 20) & (rng & 3 ? 7 : 0xFFFF);
			if (i % 8 >= 1 && i % 8 <= 3)
				words[i] &= (uint16_t)(rng & 0x30 ? 0x3F * (i % 8 == 1) : 0xFFFF);
		}
		memcpy(guest(&f->gm, (rng >> 8 & 0x3F0000)), words, 256);
		driver_offer(&f->ring, (uint16_t)(rng >> 40) & 15);
		if (vq_pop(&f->vq, &f->chain) != 1)
			continue;
		taken++;
		assert_true(f->chain.nr_in + f->chain.nr_out <= VIRTQUEUE_MAX_SIZE);
		for (i = 0; i < f->chain.nr_in + f->chain.nr_out; i++) {
			uint8_t *base = f->iov[i].iov_base, *ram = f->gm.region[0].hva;

			assert_true(base >= ram && f->iov[i].iov_len <= MEM_SIZE &&
				    (uint64_t)(base - ram) <= MEM_SIZE - f->iov[i].iov_len);
		}
	}
	assert_true(taken > 100);
}

#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		T(test_check),
		T(test_reset),
		T(test_simple_chain),
		T(test_direct_then_indirect),
		T(test_longest_chains),
		T(test_malformed_chains),
		T(test_chain_over_4gib),
		T(test_avail_index_jumps),
		T(test_unpop),
		T(test_used_ring_wraps),
		T(test_event_idx_interrupts),
		T(test_flags_interrupts),
		T(test_event_idx_kicks),
		T(test_flags_kicks),
		T(test_waiting),
		T(test_offered_while_rearming),
		T(test_random_rings),
	};

	return cmocka_run_group_tests_name("queue", tests, NULL, NULL);
}
