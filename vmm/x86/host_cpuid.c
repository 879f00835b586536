/* host_cpuid.c: KVM_GET_SUPPORTED_CPUID on a thread of its own. */
#include "x86/host_cpuid.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "retry.h"

#define STACK_SIZE (16ul * 1024) /* bytes: two system calls deep */

static void *ask(void *arg)
{
	struct host_cpuid *host = arg;
	int kvm_fd = RETRY_INTERRUPTED(open("/dev/kvm", O_RDWR | O_CLOEXEC));

	if (kvm_fd < 0) {
		host->ret = error_set(&host->err, -errno, "/dev/kvm: %s", strerror(errno));
		return NULL;
	}
	host->ret = cpuid_supported(kvm_fd, &host->table, &host->err);
	close(kvm_fd);
	return NULL;
}

void host_cpuid_begin(struct host_cpuid *host)
{
	pthread_attr_t attr;
	sigset_t all, before;

	host->begun = true;
	/* A signal that ends us is the event loop's to read, once there is one; here it would have its default effect.
	 */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_SIZE);
	host->started = pthread_create(&host->thread, &attr, ask, host) == 0;
	pthread_attr_destroy(&attr);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

int host_cpuid_wait(struct host_cpuid *host, struct error *err)
{
	if (host->started)
		pthread_join(host->thread, NULL);
	else
		ask(host);
	host->started = false;
	if (host->ret)
		return error_set(err, host->ret, "%s", host->err.message);
	return 0;
}
