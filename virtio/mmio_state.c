/* mmio_state.c: a transport's registers and queues in a state file, and back from one that nobody has to believe. */
#include <errno.h>
#include <linux/virtio_mmio.h>
#include <string.h>

#include "feature_bits.h"
#include "mmio_internal.h"
#include "snapshot/state.h"

#define BIT(n) (1ull << (n))

_Static_assert(sizeof(struct virtqueue_state) == 3 * 8 + 4 * 2 + 3 + 5 &&
		       sizeof(struct virtio_mmio_state) ==
			       CONFIG_ID_LEN + 8 + 8 * 4 + VIRTIO_MAX_QUEUES * sizeof(struct virtqueue_state),
	       "no holes");

/* ---- saving ---- */

static void save_queue(const struct virtqueue *vq, struct virtqueue_state *state)
{
	*state = (struct virtqueue_state){
		.desc_gpa = vq->desc_gpa,
		.avail_gpa = vq->avail_gpa,
		.used_gpa = vq->used_gpa,
		.size = vq->size,
		.next_avail = vq->next_avail,
		.next_used = vq->next_used,
		.signalled_used = vq->signalled_used,
		.ready = vq->ready,
		.signalled_valid = vq->signalled_valid,
		.kicks_off = vq->kicks_off,
	};
}

void virtio_mmio_save(struct virtio_mmio *mmio, struct state_writer *w, uint32_t slot)
{
	const struct virtio_device *dev = mmio->dev;
	struct virtio_mmio_state state = { 0 };
	unsigned int i;

	/* With nothing in flight, a reset is over at once. */
	virtio_mmio_carry_out(mmio);
	pthread_mutex_lock(&mmio->lock);
	memcpy(state.id, dev->id, strlen(dev->id));
	state.driver_features = mmio->driver_features;
	state.type = dev->ops->type;
	state.status = mmio->status;
	state.device_features_sel = mmio->device_features_sel;
	state.driver_features_sel = mmio->driver_features_sel;
	state.queue_sel = mmio->queue_sel;
	state.config_generation = mmio->config_generation;
	state.interrupt_status = atomic_load(&mmio->interrupt_status);
	state.nr_queues = dev->ops->nr_queues;
	for (i = 0; i < dev->ops->nr_queues; i++)
		save_queue(&dev->queue[i], &state.queue[i]);
	pthread_mutex_unlock(&mmio->lock);
	state_put(w, STATE_TRANSPORT, slot, &state, sizeof(state));
	if (dev->ops->save)
		dev->ops->save(dev, w, slot);
}

/* ---- restoring ---- */

static bool is_active(const struct virtio_mmio_state *state)
{
	return (state->status & VIRTIO_CONFIG_S_DRIVER_OK) && !(state->status & VIRTIO_CONFIG_S_NEEDS_RESET);
}

static int check_device(const struct virtio_mmio *mmio, struct virtio_mmio_state *state, uint32_t slot,
			struct error *err)
{
	const struct virtio_device *dev = mmio->dev;

	if (!memchr(state->id, '\0', sizeof(state->id)))
		return state_bad(err, STATE_TRANSPORT, slot, "the device's name has no end");
	if (state->type != dev->ops->type || strcmp(state->id, dev->id) != 0)
		return state_bad(err, STATE_TRANSPORT, slot, "it is of another device than the one that is there");
	if (state->nr_queues != dev->ops->nr_queues)
		return state_bad(err, STATE_TRANSPORT, slot, "the device has another number of queues");
	return 0;
}

/* What write_status and mmio_broken lead to (3.1.1, 2.1.2), and nothing else. */
static const char *wrong_status(const struct virtio_mmio_state *state)
{
	const uint32_t status = state->status;

	if (status & ~(uint32_t)(VIRTIO_MMIO_DRIVER_BITS | VIRTIO_CONFIG_S_NEEDS_RESET))
		return "the device status has bits that it does not have";
	if (((status & VIRTIO_CONFIG_S_FEATURES_OK) && !(status & VIRTIO_CONFIG_S_DRIVER)) ||
	    ((status & VIRTIO_CONFIG_S_DRIVER_OK) && !(status & VIRTIO_CONFIG_S_FEATURES_OK)) ||
	    ((status & VIRTIO_CONFIG_S_NEEDS_RESET) && !(status & VIRTIO_CONFIG_S_DRIVER_OK)))
		return "the device status has a bit without the one that comes before it";
	if ((status & VIRTIO_CONFIG_S_FEATURES_OK) && !(state->driver_features & BIT(VIRTIO_F_VERSION_1)))
		return "a driver was accepted that does not know virtio 1";
	if (state->interrupt_status & ~(uint32_t)(VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG))
		return "the interrupt status has bits that it does not have";
	if (state->interrupt_status && !(status & VIRTIO_CONFIG_S_DRIVER_OK))
		return "there are interrupts for a driver that is not ready";
	return NULL;
}

/* The driver was promised all that it acknowledged, and drivers do not negotiate twice. */
static int check_features(const struct virtio_mmio *mmio, const struct virtio_mmio_state *state, struct error *err)
{
	uint64_t missing = state->driver_features & ~virtio_mmio_offered(mmio);
	const struct virtio_feature *feature;
	unsigned int bit;

	if (!(state->status & VIRTIO_CONFIG_S_FEATURES_OK) || !missing)
		return 0;
	bit = (unsigned int)__builtin_ctzll(missing);
	feature = virtio_feature_find(state->type, bit);
	return error_set(err, -EINVAL,
			 "virtio device %s: the snapshot's guest uses %s (feature bit %u), which the device does not "
			 "have here (needs %s)",
			 mmio->dev->id, feature ? feature->name : "a feature", bit,
			 feature ? feature->needs : "the Mayfly that wrote the snapshot, or a newer one");
}

/*
 * A driver that comes anew finds status 0 and has nothing to reset (write_status): what a reset would have cleared must
 * be clear then.
 */
static const char *wrong_queue(const struct virtqueue *vq, const struct virtqueue_state *state, uint32_t status)
{
	const bool used = state->next_avail || state->next_used || state->signalled_used || state->kicks_off;
	const bool set_up = state->ready || state->size || state->desc_gpa || state->avail_gpa || state->used_gpa;

	if (state->ready > 1 || state->signalled_valid > 1 || state->kicks_off > 1)
		return "a queue is neither ready nor not ready";
	if (state->size > vq->max_size)
		return "a queue is longer than the device's queues are";
	if (set_up && !(status & VIRTIO_CONFIG_S_FEATURES_OK))
		return "a queue is set up before there are features";
	if (used && !(state->ready && (status & VIRTIO_CONFIG_S_DRIVER_OK)))
		return "a queue has been used that was not ready";
	return NULL;
}

/* vq as it was before the driver came, into which the state goes; NULL, or what is wrong with it. */
static const char *restore_queue(struct virtqueue *vq, const struct virtqueue_state *state, uint32_t status)
{
	const char *why = wrong_queue(vq, state, status);

	if (why)
		return why;
	vq->desc_gpa = state->desc_gpa;
	vq->avail_gpa = state->avail_gpa;
	vq->used_gpa = state->used_gpa;
	vq->size = state->size;
	vq->next_avail = state->next_avail;
	vq->next_used = state->next_used;
	vq->signalled_used = state->signalled_used;
	vq->signalled_valid = state->signalled_valid;
	vq->kicks_off = state->kicks_off;
	if (!state->ready)
		return NULL;
	if (vq_check(vq))
		return "a queue that is ready has a bad size or address";
	vq->ready = true;
	return NULL;
}

static const char *restore_registers(struct virtio_mmio *mmio, const struct virtio_mmio_state *state)
{
	struct virtio_device *dev = mmio->dev;
	const char *why = NULL;
	unsigned int i;

	mmio->driver_features = state->driver_features;
	mmio->status = state->status;
	mmio->device_features_sel = state->device_features_sel;
	mmio->driver_features_sel = state->driver_features_sel;
	mmio->queue_sel = state->queue_sel;
	mmio->config_generation = state->config_generation;
	atomic_store(&mmio->interrupt_status, state->interrupt_status);
	dev->features = state->status & VIRTIO_CONFIG_S_FEATURES_OK ? state->driver_features : 0;
	for (i = 0; i < dev->ops->nr_queues && !why; i++)
		why = restore_queue(&dev->queue[i], &state->queue[i], state->status);
	return why;
}

int virtio_mmio_restore(struct virtio_mmio *mmio, struct state_reader *r, uint32_t slot, struct error *err)
{
	struct virtio_device *dev = mmio->dev;
	struct virtio_mmio_state state;
	const char *why;
	int ret = state_get(r, STATE_TRANSPORT, slot, &state, sizeof(state), sizeof(state), err);

	if (!ret)
		ret = check_device(mmio, &state, slot, err);
	if (!ret && wrong_status(&state))
		ret = state_bad(err, STATE_TRANSPORT, slot, wrong_status(&state));
	if (!ret)
		ret = check_features(mmio, &state, err);
	if (ret)
		return ret;
	pthread_mutex_lock(&mmio->lock);
	why = restore_registers(mmio, &state);
	pthread_mutex_unlock(&mmio->lock);
	if (why)
		return state_bad(err, STATE_TRANSPORT, slot, why);
	ret = dev->ops->restore ? dev->ops->restore(dev, r, slot, err) : 0;
	if (ret || !is_active(&state))
		return ret;
	ret = virtio_mmio_activate(mmio);
	if (ret) {
		dev->active = false;
		return error_set(err, ret, "virtio device %s: it could not be activated: %s", dev->id, strerror(-ret));
	}
	return 0;
}
