/* identity.c: what a copy of a machine needs to become its own: clock, random numbers, names, addresses. */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "files.h"
#include "network.h"
#include "text.h"

#define SEED_BYTES 32

OPERATION(op_clock)
{
	int64_t ns = -1;
	struct timespec now;

	if (number_field(request, "ns", 0, INT64_MAX, &ns, err))
		return err->code;
	if (ns < 0)
		return bad_field(err, request, "ns", "nanoseconds since 1970");
	now = (struct timespec){ ns / 1000000000, ns % 1000000000 };
	if (clock_settime(CLOCK_REALTIME, &now))
		return error_set(err, -errno, "the clock cannot be set: %s", strerror(errno));
	return 0;
}

/* Mix a seed into the kernel's random numbers, and have them made anew from it at once. */
static int reseed(const unsigned char *seed, struct error *err)
{
	struct {
		struct rand_pool_info info;
		unsigned char bytes[SEED_BYTES];
	} pool = { .info = { .entropy_count = SEED_BYTES * 8, .buf_size = SEED_BYTES } };
	int fd = open("/dev/urandom", O_RDWR | O_CLOEXEC), ret = 0;

	memcpy(pool.bytes, seed, SEED_BYTES);
	if (ioctl(fd, RNDADDENTROPY, &pool) || ioctl(fd, RNDRESEEDCRNG))
		ret = error_set(err, -errno, "the random numbers cannot be seeded: %s", strerror(errno));
	close(fd);
	return ret;
}

static int new_machine_id(int root, struct error *err)
{
	unsigned char bytes[16];
	char text[34];
	int ret;

	if (getrandom(bytes, sizeof(bytes), GRND_NONBLOCK) != sizeof(bytes))
		return error_set(err, -EAGAIN, "no random numbers for /etc/machine-id");
	for (size_t i = 0; i < sizeof(bytes); i++)
		snprintf(text + 2 * i, 3, "%02x", bytes[i]);
	text[32] = '\n';
	text[33] = '\0';
	ret = root_write(root, "/etc/machine-id", text);
	return ret && ret != -ENOENT ? error_set(err, ret, "/etc/machine-id: %s", strerror(-ret)) : 0;
}

int identity_hostname(int root, const char *name, const char *address, struct error *err)
{
	size_t len = strlen(name);
	char text[256];

	if (!len || len > 64 ||
	    strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._") != len)
		return error_set(err, -EINVAL, "hostname %.70s: must be up to 64 letters, digits, -, _ and .", name);
	if (sethostname(name, len))
		return error_set(err, -errno, "hostname %s: %s", name, strerror(errno));
	/* An image without /etc, or a read-only root: nobody there reads these. */
	snprintf(text, sizeof(text), "%s\n", name);
	root_write(root, "/etc/hostname", text);
	snprintf(text, sizeof(text), "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n%s %s\n",
		 address ? address : "127.0.1.1", name);
	root_write(root, "/etc/hosts", text);
	return 0;
}

OPERATION(op_hostname)
{
	const char *name = field_get(request, "name");

	return identity_hostname(agent->root, name ? name : "", NULL, err);
}

OPERATION(op_reseed)
{
	const char *hex = field_get(request, "seed"), *name = field_get(request, "hostname");
	unsigned char seed[SEED_BYTES];
	int ret;

	if (!hex || strlen(hex) != (size_t)2 * SEED_BYTES)
		return bad_field(err, request, "seed", "64 hexadecimal digits");
	for (int i = 0; i < SEED_BYTES; i++) {
		unsigned int high = text_digit(hex[2 * i]), low = text_digit(hex[2 * i + 1]);

		if (high > 15 || low > 15)
			return bad_field(err, request, "seed", "64 hexadecimal digits");
		seed[i] = (unsigned char)(high << 4 | low);
	}
	ret = reseed(seed, err);
	if (!ret)
		ret = new_machine_id(agent->root, err);
	return !ret && name ? identity_hostname(agent->root, name, NULL, err) : ret;
}

OPERATION(op_network)
{
	return network_configure(agent->root, request, err);
}
