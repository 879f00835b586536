/* board_state.c: everything the guest can see, into a state file and back. */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "board_state.h"
#include "snapshot/cpu_check.h"
#include "snapshot/vcpu_state.h"

/* What kvm-clock says, and when that was; KVM_CLOCK_REALTIME, KVM_CLOCK_HOST_TSC in flags: these are known. */
struct clock_record {
	uint64_t clock_ns;
	uint64_t realtime_ns;
	uint64_t host_tsc;
	uint32_t flags;
	uint32_t zero;
};

/* ---- saving ---- */

static int save_clock(const struct board *b, struct state_writer *w, struct error *err)
{
	struct kvm_clock_data now = { 0 };
	struct clock_record clock = { 0 };

	if (ioctl(b->kvm.vm_fd, KVM_GET_CLOCK, &now) < 0)
		return error_set(err, -errno, "KVM_GET_CLOCK: %s", strerror(errno));
	clock.clock_ns = now.clock;
	clock.realtime_ns = now.realtime;
	clock.host_tsc = now.host_tsc;
	clock.flags = now.flags & (KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC);
	state_put(w, STATE_CLOCK, 0, &clock, sizeof(clock));
	return 0;
}

int board_save(struct board *b, struct state_writer *w, struct error *err)
{
	unsigned int i;
	int ret = 0;

	if (b->mmds)
		mmds_save(b->mmds, w);
	/* Whoever goes on from here may open the files of overlays while this process still has them. */
	for (i = 0; i < b->cfg->nr_drives && !ret; i++)
		ret = block_save_overlay(b->drive[i], err);
	ioapic_save(&b->ioapic, w);
	i8042_save(&b->i8042, w);
	serial_save(&b->serial, w);
	console_save(&b->console, w);
	vmgenid_save(&b->vmgenid, w);
	for (i = 0; i < b->nr_transports; i++)
		virtio_mmio_save(&b->transport[i], w, i);
	for (i = 0; i < b->nr_vcpus && !ret; i++)
		ret = vcpu_state_save(&b->vcpu[i], &b->kvm, w, err);
	return ret ? ret : save_clock(b, w, err);
}

/* ---- restoring ---- */

/* As a pause leaves them: nothing moves before machine_resume. */
static void pause_devices(struct board *b)
{
	unsigned int i;

	for (i = 0; i < b->cfg->nr_drives; i++)
		(void)block_drain(b->drive[i], NULL, NULL);
	for (i = 0; i < b->cfg->nr_nets; i++)
		net_pause(b->net[i]);
	if (b->vsock)
		vsock_pause(b->vsock);
}

static int restore_devices(struct board *b, struct state_reader *r, struct error *err)
{
	unsigned int i;
	int ret = 0;

	if (b->mmds && state_has(r, STATE_METADATA, 0))
		ret = mmds_restore(b->mmds, r, err);
	if (!ret)
		ret = ioapic_restore(&b->ioapic, r, err);
	if (!ret)
		ret = i8042_restore(&b->i8042, r, err);
	if (!ret)
		ret = serial_restore(&b->serial, r, err);
	if (!ret)
		ret = console_restore(&b->console, r, err);
	if (!ret)
		ret = vmgenid_restore(&b->vmgenid, r, err);
	for (i = 0; i < b->nr_transports && !ret; i++)
		ret = virtio_mmio_restore(&b->transport[i], r, i, err);
	return ret;
}

/*
 * Two clocks of the guest's must not drift apart for having been saved and set at different moments: Linux would give
 * up the TSC for it. So the TSCs are set by what kvm-clock says now (kernel documentation, virt/kvm/devices/vcpu.rst,
 * 4).
 */
static int restore_tscs(struct board *b, const struct clock_record *clock, struct error *err)
{
	struct kvm_clock_data now = { 0 };
	int khz = ioctl(b->vcpu[0].fd, KVM_GET_TSC_KHZ, 0), ret = 0;
	uint64_t shift;
	unsigned int i;

	if (!(clock->flags & KVM_CLOCK_HOST_TSC) || khz <= 0 || ioctl(b->kvm.vm_fd, KVM_GET_CLOCK, &now) < 0 ||
	    !(now.flags & KVM_CLOCK_HOST_TSC) || now.clock < clock->clock_ns)
		return 0;
	shift = (uint64_t)((unsigned __int128)(now.clock - clock->clock_ns) * (unsigned int)khz / 1000000);
	shift += clock->host_tsc - now.host_tsc;
	for (i = 0; i < b->nr_vcpus && !ret; i++) {
		if (b->vcpu[i].has_tsc_offset)
			ret = vcpu_state_set_tsc(&b->vcpu[i], b->vcpu[i].tsc_offset + shift, err);
	}
	return ret;
}

/* After the vCPUs, whose TSCs it is reckoned from. */
static int restore_clock(struct board *b, struct state_reader *r, bool realtime, struct error *err)
{
	struct kvm_clock_data set = { 0 };
	struct clock_record clock;
	int ret = state_get(r, STATE_CLOCK, 0, &clock, sizeof(clock), sizeof(clock), err);

	if (ret)
		return ret;
	if (realtime && !(clock.flags & KVM_CLOCK_REALTIME))
		return error_set(
			err, -ENOTSUP,
			"clock_realtime: the host that took the snapshot did not note the time (needs Linux 5.16 "
			"and the TSC as its clock)");
	set.clock = clock.clock_ns;
	if (realtime) {
		set.flags = KVM_CLOCK_REALTIME;
		set.realtime = clock.realtime_ns;
	}
	if (ioctl(b->kvm.vm_fd, KVM_SET_CLOCK, &set) < 0)
		return error_set(err, -errno, "KVM_SET_CLOCK: %s", strerror(errno));
	return restore_tscs(b, &clock, err);
}

int board_restore(struct board *b, const struct board_restore *restore, struct error *err)
{
	struct state_reader *r = restore->state;
	unsigned int i;
	int ret;

	pause_devices(b);
	ret = restore->same_host ? 0 : cpu_check_features(r, &b->kvm, err);
	if (!ret)
		ret = restore_devices(b, r, err);
	for (i = 0; i < b->nr_vcpus && !ret; i++)
		ret = vcpu_state_restore(&b->vcpu[i], &b->kvm, r, err);
	if (!ret)
		ret = restore_clock(b, r, restore->clock_realtime, err);
	if (!ret)
		ret = state_end(r, err);
	/* It may be one of many, which must not draw the same random numbers. */
	return ret ? ret : vmgenid_renew(&b->vmgenid, err);
}
