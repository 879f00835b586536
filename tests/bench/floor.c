/*
 * floor.c: the KVM calls that no monitor can do without, one after the other, and nothing else: what
 * "exec → first guest instruction" would cost if a monitor were free. Prints the guest's one character.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define RAM_SIZE (128ul << 20)
#define CODE_GPA 0x100000

/* mov dx, 0x3f8; mov al, 'F'; out dx, al; hlt */
static const uint8_t guest_code[] = { 0xba, 0xf8, 0x03, 0xb0, 'F', 0xee, 0xf4 };

static struct {
	struct kvm_cpuid2 head;
	struct kvm_cpuid_entry2 entries[256];
} cpuid = { .head.nent = 256 };

static void checked(int result)
{
	if (result < 0)
		_exit(1);
}

static int create_vm(int kvm)
{
	struct kvm_enable_cap split = { .cap = KVM_CAP_SPLIT_IRQCHIP, .args[0] = 24 };
	int vm = ioctl(kvm, KVM_CREATE_VM, 0);
	uint8_t *ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct kvm_userspace_memory_region slot = { .memory_size = RAM_SIZE, .userspace_addr = (uintptr_t)ram };

	checked(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot));
	checked(ioctl(vm, KVM_ENABLE_CAP, &split));
	memcpy(ram + CODE_GPA, guest_code, sizeof(guest_code));
	return vm;
}

static int create_vcpu(int kvm, int vm)
{
	struct kvm_regs regs = { .rflags = 2 };
	struct kvm_sregs sregs;
	int vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);

	checked(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid));
	checked(ioctl(vcpu, KVM_SET_CPUID2, &cpuid));
	checked(ioctl(vcpu, KVM_GET_SREGS, &sregs));
	sregs.cs.selector = 0;
	sregs.cs.base = CODE_GPA;
	checked(ioctl(vcpu, KVM_SET_SREGS, &sregs));
	checked(ioctl(vcpu, KVM_SET_REGS, &regs));
	return vcpu;
}

int main(void)
{
	int kvm = open("/dev/kvm", O_RDWR), size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), vcpu;
	struct kvm_run *run;

	checked(size);
	vcpu = create_vcpu(kvm, create_vm(kvm));
	run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	checked(ioctl(vcpu, KVM_RUN, 0));
	if (run->exit_reason == KVM_EXIT_IO)
		(void)!write(STDOUT_FILENO, (char *)run + run->io.data_offset, 1);
	_exit(0); /* as a monitor would: the kernel takes the VM down */
}
