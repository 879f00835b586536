// SPDX-License-Identifier: GPL-2.0
/*
 * vmgenid_cmdline.c: the generation ID for kernels without ACPI: reseeds the random number generator of a clone.
 *
 * Built into the guest kernel by rootfs/build-kernel, beside drivers/virt/vmgenid.c, which knows ACPI and the device
 * tree only. Where the ID is, and the port that takes the driver's wish, come by the command line, as for virtio:
 *
 *	vmgenid.device=<physical address>:<port>
 *
 * The wish is a vector: when the ID has changed, each vCPU gets an interrupt there before it runs again. The first one
 * reseeds in its handler and the others wait in theirs, so that no program runs on any of them before the generator has
 * its new seed. (By ACPI the same takes an interrupt thread and a kernel worker, and one vCPU.) A vCPU that the change
 * found with interrupts off takes its own when they are on again, which is before it returns to a program, too.
 */
#define pr_fmt(fmt) "vmgenid: " fmt

#include <linux/acpi.h>
#include <linux/init.h>
#include <linux/io.h>
#include <linux/moduleparam.h>
#include <linux/random.h>
#include <linux/spinlock.h>
#include <linux/string.h>

#include <asm/irq.h>
#include <asm/irq_vectors.h>

#undef MODULE_PARAM_PREFIX /* not this file's name */
#define MODULE_PARAM_PREFIX "vmgenid."

enum { ID_SIZE = 16 };

static struct {
	unsigned long long address; /* 0: none */
	unsigned int port;
	const void *now; /* the ID as it is */
	raw_spinlock_t lock;
	u8 seen[ID_SIZE]; /* the ID that the generator knows; guarded by lock */
} vmgenid = { .lock = __RAW_SPIN_LOCK_UNLOCKED(vmgenid.lock) };

static int set_device(const char *arg, const struct kernel_param *kp)
{
	unsigned long long address;
	unsigned int port;
	int len = 0;

	if (sscanf(arg, "%lli:%i%n", &address, &port, &len) != 2 || arg[len])
		return -EINVAL;
	vmgenid.address = address;
	vmgenid.port = port;
	return 0;
}

static const struct kernel_param_ops device_ops = { .set = set_device };

module_param_cb(device, &device_ops, NULL, 0);

/* In an interrupt, on every CPU. */
static void id_has_changed(void)
{
	u8 id[ID_SIZE];

	raw_spin_lock(&vmgenid.lock);
	memcpy(id, vmgenid.now, sizeof(id));
	if (memcmp(id, vmgenid.seen, sizeof(id))) {
		memcpy(vmgenid.seen, id, sizeof(id));
		add_vmfork_randomness(id, sizeof(id));
	}
	raw_spin_unlock(&vmgenid.lock);
}

static int __init vmgenid_cmdline_init(void)
{
	/* With ACPI, the kernel's own driver has found it. */
	if (!vmgenid.address || !acpi_disabled)
		return 0;
	vmgenid.now = memremap(vmgenid.address, ID_SIZE, MEMREMAP_WB);
	if (!vmgenid.now) {
		pr_err("no mapping of the ID; clones will share their random numbers\n");
		return -ENOMEM;
	}
	memcpy(vmgenid.seen, vmgenid.now, sizeof(vmgenid.seen));
	add_device_randomness(vmgenid.seen, sizeof(vmgenid.seen));
	/* The one vector that every CPU has and that is there for platforms; nothing else of a microVM uses it. */
	x86_platform_ipi_callback = id_has_changed;
	outb(X86_PLATFORM_IPI_VECTOR, vmgenid.port);
	return 0;
}
device_initcall(vmgenid_cmdline_init);
