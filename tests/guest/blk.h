/* blk.h: a virtio block device as the test guest drives it. */
#ifndef GUEST_BLK_H
#define GUEST_BLK_H

#include <linux/virtio_blk.h>

#include "pattern.h"
#include "virtio.h"

#define SECTOR           512u
#define BOUNCE_SECTORS   128u /* of the buffer for one request at a time */
#define STATUS_UNTOUCHED 0xee /* put there before a request; no device writes it */
#define IO_PATIENCE_MS   30000

/* What a script may ask to be negotiated; the device's offer limits it. */
#define BLK_WANTED                                                                                               \
	(FEATURE(VIRTIO_F_VERSION_1) | FEATURE(VIRTIO_RING_F_EVENT_IDX) | FEATURE(VIRTIO_RING_F_INDIRECT_DESC) | \
	 FEATURE(VIRTIO_BLK_F_SIZE_MAX) | FEATURE(VIRTIO_BLK_F_SEG_MAX) | FEATURE(VIRTIO_BLK_F_RO) |             \
	 FEATURE(VIRTIO_BLK_F_BLK_SIZE) | FEATURE(VIRTIO_BLK_F_FLUSH) | FEATURE(VIRTIO_BLK_F_TOPOLOGY) |         \
	 FEATURE(VIRTIO_BLK_F_CONFIG_WCE) | FEATURE(VIRTIO_BLK_F_DISCARD) | FEATURE(VIRTIO_BLK_F_WRITE_ZEROES))

struct blk {
	struct guest *g;
	unsigned int index;
	struct vdev dev;
	struct virtq vq;
	bool open;
	uint64_t capacity;             /* in sectors */
	struct virtio_blk_outhdr *hdr; /* for one request at a time, in memory of their own */
	uint8_t *status;
	uint8_t *bounce;
};

/* blk_get - block device number index among the virtio-mmio devices, or NULL with a message. */
struct blk *blk_get(struct guest *g, unsigned int index);
/* blk_open - reset, negotiate, one queue of size (0: the largest up to 256), DRIVER_OK. */
bool blk_open(struct blk *b, uint64_t want, uint16_t size);
/*
 * blk_request - one request, to its end. data may be NULL. The device's status byte, or -1 when the device did not
 * finish the request (a message was printed and the device is closed).
 */
int blk_request(struct blk *b, uint32_t type, uint64_t sector, void *data, uint32_t len, bool in);
/* blk_config - 32 bits of configuration space. */
uint32_t blk_config(const struct blk *b, uint64_t offset);
const char *blk_status_name(int status);
bool blk_has(const struct blk *b, unsigned int feature);

/* pattern: fill or check n sectors in memory. sector_check prints the first difference. */
void sector_fill(uint64_t *data, uint64_t seed, uint64_t sector, uint64_t tag);
bool sector_check(const uint64_t *data, uint64_t seed, uint64_t sector, uint64_t tag);

/* The step "blk INDEX VERB …". */
bool blk_step(struct step *s);

/* workload.c */
bool workload_fill(struct blk *b, struct step *s);
bool workload_verify(struct blk *b, struct step *s);
bool workload_fuzz(struct blk *b, struct step *s);
bool workload_bench(struct blk *b, struct step *s);

/* hostile.c */
bool hostile_step(struct blk *b, struct step *s);

#endif
