/* mmio.c: the register file and the status machine between a driver and a device. */
#include "mmio.h"

#include <errno.h>
#include <linux/kvm.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "log.h"
#include "metrics.h"
#include "mmio_internal.h"
#include "x86/x86.h"

#define MMIO_MAGIC   0x74726976u /* "virt" (4.2.2) */
#define MMIO_VERSION 2u
#define MMIO_VENDOR  0x594c464du /* "MFLY" */

/*
 * The first KVM_IOEVENTFD of a VM makes closing it wait for an RCU grace period: 16-24 ms. A forwarded notification
 * costs 10-15 us. So a queue has to have cost about that much before it gets one (docs/decisions.md, "notifications").
 */
#define IOEVENTFD_AFTER 1024

uint64_t virtio_mmio_offered(const struct virtio_mmio *mmio)
{
	return mmio->dev->ops->features(mmio->dev) | 1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_RING_F_EVENT_IDX |
	       1ull << VIRTIO_RING_F_INDIRECT_DESC;
}

static void bad_access(const struct virtio_mmio *mmio, const char *what, uint64_t offset)
{
	metrics_inc(virtio_bad_access);
	log_warn_limited("virtio device %s: %s (offset %#llx) ignored", mmio->dev->id, what,
			 (unsigned long long)offset);
}

/* ---- loop thread: the device's life ---- */

static void raise_interrupt(struct virtio_mmio *mmio, uint32_t cause)
{
	atomic_fetch_or(&mmio->interrupt_status, cause);
	ioapic_raise(mmio->ioapic, mmio->gsi);
}

static void mmio_interrupt(struct virtio_device *dev)
{
	raise_interrupt(dev->transport, VIRTIO_MMIO_INT_VRING);
}

static void mmio_config_changed(struct virtio_device *dev)
{
	struct virtio_mmio *mmio = dev->transport;
	bool tell;

	pthread_mutex_lock(&mmio->lock);
	mmio->config_generation++;
	tell = mmio->status & VIRTIO_CONFIG_S_DRIVER_OK;
	pthread_mutex_unlock(&mmio->lock);
	if (tell)
		raise_interrupt(mmio, VIRTIO_MMIO_INT_CONFIG);
}

/* 2.1.2: NEEDS_RESET, and a config interrupt when the driver was already told that all is well. */
static void mmio_broken(struct virtio_device *dev)
{
	struct virtio_mmio *mmio = dev->transport;

	pthread_mutex_lock(&mmio->lock);
	mmio->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
	pthread_mutex_unlock(&mmio->lock);
	raise_interrupt(mmio, VIRTIO_MMIO_INT_CONFIG);
	if (mmio->broken)
		mmio->broken(mmio->opaque, dev->id);
}

static int set_ioeventfd(struct virtio_mmio *mmio, unsigned int queue, uint32_t flags)
{
	struct kvm_ioeventfd ioev = {
		.datamatch = queue,
		.addr = mmio->gpa + VIRTIO_MMIO_QUEUE_NOTIFY,
		.len = 4,
		.fd = mmio->kick[queue].event.fd,
		.flags = KVM_IOEVENTFD_FLAG_DATAMATCH | flags,
	};
	int ret = ioctl(mmio->vm_fd, KVM_IOEVENTFD, &ioev) < 0 ? -errno : 0;

	if (ret)
		log_warn_limited("virtio device %s, queue %u: KVM_IOEVENTFD: %s", mmio->dev->id, queue, strerror(-ret));
	return ret;
}

static void on_kick(struct event_fd *ev, uint32_t events)
{
	struct virtio_mmio_kick *kick = ev->opaque;
	struct virtio_device *dev = kick->mmio->dev;

	(void)events;
	if (dev->active && dev->queue[kick - kick->mmio->kick].ready)
		dev->ops->notify(dev, (unsigned int)(kick - kick->mmio->kick));
}

/* From now on this queue's notifications cost the guest no exit to user space. Failing is no error: they go on as they
 * were. */
static void switch_to_ioeventfd(struct virtio_mmio *mmio, unsigned int queue)
{
	struct virtio_mmio_kick *kick = &mmio->kick[queue];

	kick->event.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (kick->event.fd < 0)
		return;
	/* Edge-triggered: each kick is an event of its own, and the count need not be read, one system call in three.
	 */
	if (event_loop_add(mmio->loop, &kick->event, EPOLLIN | EPOLLET))
		goto err_close;
	if (set_ioeventfd(mmio, queue, 0))
		goto err_remove;
	metrics_inc(virtio_ioeventfd_switched);
	return;

err_remove:
	event_loop_remove(mmio->loop, &kick->event);
err_close:
	close(kick->event.fd);
	kick->event.fd = -1;
}

/* KVM_IOEVENTFD waits for vCPUs that are inside KVM_RUN, and those may wait for us to save a page. Until that is over,
 * what there is stays: a notification of a queue that is not ready is none. */
static bool may_change_ioeventfds(const struct virtio_mmio *mmio)
{
	return !mmio->dev->gm->watcher;
}

static void drop_ioeventfds(struct virtio_mmio *mmio)
{
	unsigned int i;

	for (i = 0; i < mmio->dev->ops->nr_queues; i++) {
		struct virtio_mmio_kick *kick = &mmio->kick[i];

		if (kick->event.fd >= 0 && !may_change_ioeventfds(mmio))
			continue;
		kick->forwarded = 0;
		if (kick->event.fd < 0)
			continue;
		(void)set_ioeventfd(mmio, i, KVM_IOEVENTFD_FLAG_DEASSIGN);
		event_loop_remove(mmio->loop, &kick->event);
		close(kick->event.fd);
		kick->event.fd = -1;
	}
}

int virtio_mmio_activate(struct virtio_mmio *mmio)
{
	struct virtio_device *dev = mmio->dev;
	unsigned int i;

	for (i = 0; i < dev->ops->nr_queues; i++) {
		dev->queue[i].event_idx = dev->features & 1ull << VIRTIO_RING_F_EVENT_IDX;
		dev->queue[i].indirect = dev->features & 1ull << VIRTIO_RING_F_INDIRECT_DESC;
	}
	dev->active = true;
	return dev->ops->activate(dev);
}

static void mmio_reset_done(struct virtio_device *dev)
{
	struct virtio_mmio *mmio = dev->transport;
	unsigned int i;

	drop_ioeventfds(mmio);
	pthread_mutex_lock(&mmio->lock);
	for (i = 0; i < dev->ops->nr_queues; i++)
		vq_reset(&dev->queue[i]);
	dev->features = 0;
	mmio->driver_features = 0;
	mmio->status = 0;
	mmio->device_features_sel = mmio->driver_features_sel = mmio->queue_sel = 0;
	mmio->resetting = false;
	atomic_store(&mmio->interrupt_status, 0);
	atomic_store(&mmio->notified, 0);
	pthread_cond_broadcast(&mmio->reset_finished);
	pthread_mutex_unlock(&mmio->lock);
}

static void notify_queues(struct virtio_mmio *mmio)
{
	struct virtio_device *dev = mmio->dev;
	uint32_t notified = atomic_exchange(&mmio->notified, 0);
	unsigned int i;

	for (i = 0; i < dev->ops->nr_queues && dev->active; i++) {
		if (!(notified & 1u << i) || !dev->queue[i].ready)
			continue;
		if (may_change_ioeventfds(mmio) && ++mmio->kick[i].forwarded == IOEVENTFD_AFTER)
			switch_to_ioeventfd(mmio, i);
		dev->ops->notify(dev, i);
	}
}

void virtio_mmio_carry_out(struct virtio_mmio *mmio)
{
	bool reset_wanted, activate_wanted;

	pthread_mutex_lock(&mmio->lock);
	reset_wanted = mmio->reset_wanted;
	activate_wanted = mmio->activate_wanted;
	mmio->reset_wanted = mmio->activate_wanted = false;
	pthread_mutex_unlock(&mmio->lock);

	if (reset_wanted) {
		mmio->dev->active = false;
		if (mmio->dev->ops->reset(mmio->dev))
			mmio_reset_done(mmio->dev);
		return;
	}
	if (activate_wanted && virtio_mmio_activate(mmio))
		virtio_device_broken(mmio->dev, 0, "the device could not be activated");
	notify_queues(mmio);
}

static void on_work(struct event_work *work)
{
	virtio_mmio_carry_out(work->opaque);
}

/* ---- vCPU threads: registers; lock held ---- */

/* 3.1.1: bits are only added, in order; 0 resets. FEATURES_OK stays off when the driver took what was not on offer. */
static void write_status(struct virtio_mmio *mmio, uint32_t value)
{
	uint32_t driver_status = mmio->status & VIRTIO_MMIO_DRIVER_BITS;
	uint32_t added = value & VIRTIO_MMIO_DRIVER_BITS & ~driver_status;

	if (value == 0) {
		if (!mmio->status && !mmio->resetting)
			return;
		if (!mmio->resetting) {
			mmio->resetting = mmio->reset_wanted = true;
			event_loop_post(mmio->loop, &mmio->work);
		}
		while (mmio->resetting && !mmio->closing)
			pthread_cond_wait(&mmio->reset_finished, &mmio->lock);
		return;
	}
	if (driver_status & ~value) {
		bad_access(mmio, "clearing a status bit", VIRTIO_MMIO_STATUS);
		return;
	}
	if (added & VIRTIO_CONFIG_S_FEATURES_OK) {
		if (!(value & VIRTIO_CONFIG_S_DRIVER) || mmio->driver_features & ~virtio_mmio_offered(mmio) ||
		    !(mmio->driver_features & 1ull << VIRTIO_F_VERSION_1))
			added &= ~(uint32_t)VIRTIO_CONFIG_S_FEATURES_OK;
		else
			mmio->dev->features = mmio->driver_features;
	}
	if ((added & VIRTIO_CONFIG_S_DRIVER_OK) && !((driver_status | added) & VIRTIO_CONFIG_S_FEATURES_OK)) {
		bad_access(mmio, "DRIVER_OK without FEATURES_OK", VIRTIO_MMIO_STATUS);
		added &= ~(uint32_t)VIRTIO_CONFIG_S_DRIVER_OK;
	}
	mmio->status |= added;
	if (added & VIRTIO_CONFIG_S_DRIVER_OK) {
		mmio->activate_wanted = true;
		event_loop_post(mmio->loop, &mmio->work);
	}
}

static void write_driver_features(struct virtio_mmio *mmio, uint32_t value)
{
	unsigned int shift = mmio->driver_features_sel ? 32 : 0;

	if (mmio->status & VIRTIO_CONFIG_S_FEATURES_OK || mmio->driver_features_sel > 1) {
		/* Selecting words beyond 63 is how drivers acknowledge that there are none: only bits set are wrong. */
		if (value)
			bad_access(mmio, "driver features", VIRTIO_MMIO_DRIVER_FEATURES);
		return;
	}
	mmio->driver_features &= ~(0xffffffffull << shift);
	mmio->driver_features |= (uint64_t)value << shift;
}

static void set_half(uint64_t *field, bool high, uint32_t value)
{
	if (high)
		*field = (*field & 0xffffffffull) | (uint64_t)value << 32;
	else
		*field = (*field & ~0xffffffffull) | value;
}

/*
 * 4.2.2.2: a queue is set up between FEATURES_OK and DRIVER_OK, and not any more once it is ready. A live queue is
 * given up by a reset only, as in Firecracker; drivers then say so once more for each queue (QueueReady = 0), which is
 * nothing.
 */
static void write_queue(struct virtio_mmio *mmio, uint64_t offset, uint32_t value)
{
	bool known = mmio->queue_sel < mmio->dev->ops->nr_queues;
	struct virtqueue *vq = &mmio->dev->queue[known ? mmio->queue_sel : 0];

	if (known && offset == VIRTIO_MMIO_QUEUE_READY && !value && !vq->ready)
		return;
	if (!known || !(mmio->status & VIRTIO_CONFIG_S_FEATURES_OK) || mmio->status & VIRTIO_CONFIG_S_DRIVER_OK) {
		bad_access(mmio, "queue set-up at the wrong time", offset);
		return;
	}
	if (offset == VIRTIO_MMIO_QUEUE_READY) {
		vq->ready = value == 1 && vq_check(vq) == 0;
		if (value == 1 && !vq->ready)
			bad_access(mmio, "queue with a bad size or address", offset);
		return;
	}
	if (vq->ready) {
		bad_access(mmio, "change of a queue that is ready", offset);
		return;
	}
	switch (offset) {
	case VIRTIO_MMIO_QUEUE_NUM:
		vq->size = value <= vq->max_size ? (uint16_t)value : 0;
		break;
	case VIRTIO_MMIO_QUEUE_DESC_LOW:
	case VIRTIO_MMIO_QUEUE_DESC_HIGH:
		set_half(&vq->desc_gpa, offset == VIRTIO_MMIO_QUEUE_DESC_HIGH, value);
		break;
	case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
	case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
		set_half(&vq->avail_gpa, offset == VIRTIO_MMIO_QUEUE_AVAIL_HIGH, value);
		break;
	default:
		set_half(&vq->used_gpa, offset == VIRTIO_MMIO_QUEUE_USED_HIGH, value);
		break;
	}
}

static void write_register(struct virtio_mmio *mmio, uint64_t offset, uint32_t value)
{
	switch (offset) {
	case VIRTIO_MMIO_DEVICE_FEATURES_SEL:
		mmio->device_features_sel = value;
		break;
	case VIRTIO_MMIO_DRIVER_FEATURES:
		write_driver_features(mmio, value);
		break;
	case VIRTIO_MMIO_DRIVER_FEATURES_SEL:
		mmio->driver_features_sel = value;
		break;
	case VIRTIO_MMIO_QUEUE_SEL:
		mmio->queue_sel = value;
		break;
	case VIRTIO_MMIO_QUEUE_NUM:
	case VIRTIO_MMIO_QUEUE_READY:
	case VIRTIO_MMIO_QUEUE_DESC_LOW:
	case VIRTIO_MMIO_QUEUE_DESC_HIGH:
	case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
	case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
	case VIRTIO_MMIO_QUEUE_USED_LOW:
	case VIRTIO_MMIO_QUEUE_USED_HIGH:
		write_queue(mmio, offset, value);
		break;
	case VIRTIO_MMIO_STATUS:
		write_status(mmio, value);
		break;
	default:
		bad_access(mmio, "write to a register that is not there or is read-only", offset);
	}
}

static uint32_t read_register(struct virtio_mmio *mmio, uint64_t offset)
{
	const struct virtio_device *dev = mmio->dev;
	bool queue_exists = mmio->queue_sel < dev->ops->nr_queues;

	switch (offset) {
	case VIRTIO_MMIO_MAGIC_VALUE:
		return MMIO_MAGIC;
	case VIRTIO_MMIO_VERSION:
		return MMIO_VERSION;
	case VIRTIO_MMIO_DEVICE_ID:
		return dev->ops->type;
	case VIRTIO_MMIO_VENDOR_ID:
		return MMIO_VENDOR;
	case VIRTIO_MMIO_DEVICE_FEATURES:
		return mmio->device_features_sel > 1
			       ? 0
			       : (uint32_t)(virtio_mmio_offered(mmio) >> (mmio->device_features_sel * 32));
	case VIRTIO_MMIO_QUEUE_NUM_MAX:
		return queue_exists ? dev->queue[mmio->queue_sel].max_size : 0;
	case VIRTIO_MMIO_QUEUE_READY:
		return queue_exists && dev->queue[mmio->queue_sel].ready;
	case VIRTIO_MMIO_INTERRUPT_STATUS:
		return atomic_load(&mmio->interrupt_status);
	case VIRTIO_MMIO_STATUS:
		return mmio->status;
	case VIRTIO_MMIO_CONFIG_GENERATION:
		return mmio->config_generation;
	case VIRTIO_MMIO_SHM_LEN_LOW:
	case VIRTIO_MMIO_SHM_LEN_HIGH:
	case VIRTIO_MMIO_SHM_BASE_LOW:
	case VIRTIO_MMIO_SHM_BASE_HIGH:
		return UINT32_MAX; /* 4.2.2: a length of all ones says that there is no such region */
	default:
		bad_access(mmio, "read of a register that is not there or is write-only", offset);
		return 0;
	}
}

/* ---- vCPU threads: entry points ---- */

static void mmio_read(void *opaque, uint64_t offset, void *data, unsigned int len)
{
	struct virtio_mmio *mmio = opaque;
	uint32_t value;

	pthread_mutex_lock(&mmio->lock);
	if (offset >= VIRTIO_MMIO_CONFIG) {
		mmio->dev->ops->read_config(mmio->dev, offset - VIRTIO_MMIO_CONFIG, data, len);
	} else if (len != sizeof(value) || offset % sizeof(value)) {
		bad_access(mmio, "register read that is not 32 bits wide and aligned", offset);
	} else {
		value = read_register(mmio, offset);
		memcpy(data, &value, sizeof(value));
	}
	pthread_mutex_unlock(&mmio->lock);
}

static void notify_from_guest(struct virtio_mmio *mmio, uint32_t queue)
{
	if (queue >= mmio->dev->ops->nr_queues)
		return bad_access(mmio, "notification of a queue that is not there", VIRTIO_MMIO_QUEUE_NOTIFY);
	atomic_fetch_or(&mmio->notified, 1u << queue);
	event_loop_post(mmio->loop, &mmio->work);
}

static void write_config(struct virtio_mmio *mmio, uint64_t offset, const void *data, unsigned int len)
{
	if (mmio->dev->ops->write_config && mmio->status & VIRTIO_CONFIG_S_DRIVER)
		mmio->dev->ops->write_config(mmio->dev, offset - VIRTIO_MMIO_CONFIG, data, len);
	else
		bad_access(mmio, "write to a read-only config field", offset);
}

static void mmio_write(void *opaque, uint64_t offset, const void *data, unsigned int len)
{
	struct virtio_mmio *mmio = opaque;
	uint32_t value = 0;

	memcpy(&value, data, len < sizeof(value) ? len : sizeof(value));
	/* The two writes of every request need no lock. */
	if (len == sizeof(value) && offset == VIRTIO_MMIO_QUEUE_NOTIFY) {
		notify_from_guest(mmio, value);
		return;
	}
	if (len == sizeof(value) && offset == VIRTIO_MMIO_INTERRUPT_ACK) {
		atomic_fetch_and(&mmio->interrupt_status, ~value);
		return;
	}
	pthread_mutex_lock(&mmio->lock);
	if (mmio->resetting && !(offset == VIRTIO_MMIO_STATUS && value == 0))
		bad_access(mmio, "write during a reset", offset);
	else if (offset >= VIRTIO_MMIO_CONFIG)
		write_config(mmio, offset, data, len);
	else if (len != sizeof(value) || offset % sizeof(value))
		bad_access(mmio, "register write that is not 32 bits wide and aligned", offset);
	else
		write_register(mmio, offset, value);
	pthread_mutex_unlock(&mmio->lock);
}

int virtio_mmio_init(struct virtio_mmio *mmio, struct virtio_device *dev, struct event_loop *loop,
		     struct ioapic *ioapic, struct bus *bus, int vm_fd, uint64_t gpa, unsigned int gsi,
		     struct error *err)
{
	static const struct bus_ops bus_ops = { .read = mmio_read, .write = mmio_write };
	static const struct virtio_transport_ops transport_ops = {
		.interrupt = mmio_interrupt,
		.config_changed = mmio_config_changed,
		.broken = mmio_broken,
		.reset_done = mmio_reset_done,
	};
	unsigned int i;
	int ret;

	memset(mmio, 0, sizeof(*mmio));
	*mmio = (struct virtio_mmio){
		.dev = dev, .loop = loop, .ioapic = ioapic, .vm_fd = vm_fd, .gpa = gpa, .gsi = gsi
	};
	mmio->work = (struct event_work){ .run = on_work, .opaque = mmio };
	pthread_mutex_init(&mmio->lock, NULL);
	pthread_cond_init(&mmio->reset_finished, NULL);
	for (i = 0; i < VIRTIO_MAX_QUEUES; i++) {
		mmio->kick[i].mmio = mmio;
		mmio->kick[i].event = (struct event_fd){ .fd = -1, .ready = on_kick, .opaque = &mmio->kick[i] };
	}
	dev->transport = mmio;
	dev->transport_ops = &transport_ops;
	ret = bus_add(bus, gpa, X86_VIRTIO_SIZE, &bus_ops, mmio);
	return ret ? error_set(err, ret, "virtio device %s: no address left for it", dev->id) : 0;
}

void virtio_mmio_close(struct virtio_mmio *mmio)
{
	pthread_mutex_lock(&mmio->lock);
	mmio->closing = true;
	pthread_cond_broadcast(&mmio->reset_finished);
	pthread_mutex_unlock(&mmio->lock);
}
