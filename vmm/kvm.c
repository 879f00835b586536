/* kvm.c: opens KVM and creates the VM. */
#include "kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "retry.h"
#include "x86/x86.h"

static const char *open_advice(int code)
{
	switch (code) {
	case EACCES:
	case EPERM:
		return "the user needs read and write access, usually by the group kvm";
	case ENOENT:
	case ENODEV:
	case ENXIO:
		return "the host needs KVM: hardware virtualization on, and the module kvm-intel, kvm-amd or kvm-pvm "
		       "loaded";
	default:
		return "see mayfly --probe";
	}
}

int kvm_open(struct kvm *kvm, struct error *err)
{
	int version, size;

	kvm->vm_fd = -1;
	kvm->fd = RETRY_INTERRUPTED(open("/dev/kvm", O_RDWR | O_CLOEXEC));
	if (kvm->fd < 0)
		return error_set(err, -errno, "/dev/kvm: %s (%s)", strerror(errno), open_advice(errno));
	version = ioctl(kvm->fd, KVM_GET_API_VERSION, 0);
	if (version < 0)
		return error_set(err, -errno, "/dev/kvm: KVM_GET_API_VERSION: %s", strerror(errno));
	if (version != KVM_API_VERSION)
		return error_set(err, -ENOTSUP, "/dev/kvm: API version %d (needs %d)", version, KVM_API_VERSION);
	size = ioctl(kvm->fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (size < 0)
		return error_set(err, -errno, "/dev/kvm: KVM_GET_VCPU_MMAP_SIZE: %s", strerror(errno));
	kvm->run_size = (size_t)size;
	kvm->vm_fd = RETRY_INTERRUPTED(ioctl(kvm->fd, KVM_CREATE_VM, 0));
	if (kvm->vm_fd < 0)
		return error_set(err, -errno, "/dev/kvm: KVM_CREATE_VM: %s (see mayfly --probe)", strerror(errno));
	return 0;
}

int kvm_split_irqchip(const struct kvm *kvm, struct error *err)
{
	struct kvm_enable_cap cap = { .cap = KVM_CAP_SPLIT_IRQCHIP, .args[0] = X86_IOAPIC_PINS };

	if (ioctl(kvm->vm_fd, KVM_ENABLE_CAP, &cap) < 0)
		return error_set(err, -errno, "KVM: split irqchip: %s (needs KVM_CAP_SPLIT_IRQCHIP, Linux 4.5)",
				 strerror(errno));
	return 0;
}

void kvm_close(struct kvm *kvm)
{
	if (kvm->vm_fd > 0)
		close(kvm->vm_fd);
	if (kvm->fd > 0)
		close(kvm->fd);
	kvm->vm_fd = kvm->fd = -1;
}
