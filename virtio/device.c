/* device.c: what every virtio device asks of its transport. */
#include "device.h"

#include "log.h"
#include "metrics.h"

void virtio_device_interrupt(struct virtio_device *dev, unsigned int queue)
{
	if (vq_should_interrupt(&dev->queue[queue]))
		dev->transport_ops->interrupt(dev);
}

void virtio_device_broken(struct virtio_device *dev, unsigned int queue, const char *why)
{
	if (!dev->active)
		return;
	dev->active = false;
	metrics_inc(virtio_device_broken);
	log_warn_limited("virtio device %s, queue %u: %s; the driver must reset the device", dev->id, queue, why);
	dev->transport_ops->broken(dev);
}

void virtio_device_config_changed(struct virtio_device *dev)
{
	dev->transport_ops->config_changed(dev);
}

void virtio_device_reset_done(struct virtio_device *dev)
{
	dev->transport_ops->reset_done(dev);
}
