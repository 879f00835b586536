/* queue.c: proof of virtio/queue.c over the real gm_at(): any registers, any guest memory at any read, any use. */
#include "queue.h"
#include "proof.h"

#define NR_IOV 256

/* Memory of one region, and of two with the hole between them. */
static const uint64_t low_sizes[] = { MIB, GM_HOLE_START };
/* Room for buffers: what every device has, and the least. */
static const unsigned int rooms[] = { 0, 1, NR_IOV };

static struct guest_memory gm;
static struct virtqueue vq;
static struct iovec iov[NR_IOV];

/* It only notes which pages are written; guest_memory_state.c has it. */
void gm_written(const struct guest_memory *memory, const void *hva, uint64_t len)
{
}

/*
 * RAM that the guest changes all the time: a weak base (-eva-alloc-builtin fresh_weak) keeps nothing that was learnt
 * from a read or a write of it, so the next read yields anything again.
 */
static uint8_t *guest_ram(uint64_t size)
{
	uint8_t *ram = calloc(1, size);

	Frama_C_make_unknown((char *)ram, size);
	return ram;
}

static void make_memory(void)
{
	uint64_t low = ANY_OF(low_sizes);

	/*@ split low; */
	gm.region[0] = (struct gm_region){ .gpa = 0, .size = low, .hva = guest_ram(low) };
	gm.nr_regions = 1;
	if (low == GM_HOLE_START) {
		gm.region[1] = (struct gm_region){ .gpa = GM_HOLE_END, .size = MIB, .hva = guest_ram(MIB) };
		gm.nr_regions = 2;
	}
}

/* What the registers hold when the driver writes QueueReady: any addresses of 64 bits, here aligned ones. */
static void make_queue(void)
{
	vq = (struct virtqueue){ .gm = &gm, .max_size = VIRTQUEUE_MAX_SIZE, .size = ANY_U16() };
	vq.event_idx = ANY_BOOL();
	vq.indirect = ANY_BOOL();
	vq.desc_gpa = MULTIPLE_OF(16);
	vq.avail_gpa = MULTIPLE_OF(2);
	vq.used_gpa = MULTIPLE_OF(4);
}

/* Free-running indices may stand anywhere. */
static void make_indices(void)
{
	vq.next_avail = ANY_U16();
	vq.next_used = ANY_U16();
	vq.signalled_used = ANY_U16();
	vq.signalled_valid = ANY_BOOL();
	vq.kicks_off = ANY_BOOL();
}

static void check_sizes(void)
{
	make_queue();
	vq.max_size = ANY_U16();
	if (vq.size <= VIRTQUEUE_MAX_SIZE) {
		/*@ split vq.size; */
		vq_check(&vq);
	} else {
		vq_check(&vq);
	}
}

/* Each address in turn, with every remainder that it must not have. */
static void check_alignments(void)
{
	uint64_t *const gpas[] = { &vq.desc_gpa, &vq.avail_gpa, &vq.used_gpa };
	static const unsigned int aligns[] = { 16, 2, 4 };

	for (unsigned int i = 0; i < 3; i++) {
		for (unsigned int remainder = 1; remainder < aligns[i]; remainder++) {
			make_queue();
			*gpas[i] = MULTIPLE_OF(aligns[i]) + remainder;
			vq_check(&vq);
		}
	}
}

static void pop(void)
{
	struct vq_chain chain = { .iov_max = ANY_OF(rooms) };

	/*@ split chain.iov_max; */
	chain.iov = iov + (NR_IOV - chain.iov_max);
	vq_pop(&vq, &chain);
}

/* Whatever a device does, in any order, as often as it likes. */
static void use(void)
{
	make_queue();
	make_indices();
	vq.size = Frama_C_unsigned_short_interval(1, VIRTQUEUE_MAX_SIZE);
	while (ANY_BOOL()) {
		if (ANY_BOOL())
			pop();
		if (ANY_BOOL())
			vq_waiting(&vq);
		if (ANY_BOOL())
			vq_unpop(&vq);
		if (ANY_BOOL())
			vq_push(&vq, ANY_U16(), ANY_U32());
		if (ANY_BOOL())
			vq_stage(&vq, ANY_U16(), ANY_U32());
		if (ANY_BOOL())
			vq_publish(&vq);
		if (ANY_BOOL())
			vq_should_interrupt(&vq);
	}
	vq_reset(&vq);
}

int main(void)
{
	make_memory();
	switch (Frama_C_interval_split(0, 3)) {
	case 0:
		check_sizes();
		break;
	case 1:
		check_alignments();
		break;
	case 2:
		use();
		break;
	default:
		vq_why(-Frama_C_interval(0, INT32_MAX));
	}
	return 0;
}
