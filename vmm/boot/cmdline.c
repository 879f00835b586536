/* cmdline.c: puts the kernel command line together. */
#include "boot/cmdline.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "x86/x86.h"

struct text {
	char *at;
	size_t room; /* bytes with the final NUL; 0 once something did not fit */
};

static void append(struct text *text, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void append(struct text *text, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(text->at, text->room, fmt, ap);
	va_end(ap);
	if (n < 0 || (size_t)n >= text->room) {
		text->room = 0;
		return;
	}
	text->at += n;
	text->room -= (size_t)n;
}

/* The root drive is always the first virtio device, so it is vda whatever its place in the configuration. */
static void append_root(struct text *text, const struct config *cfg)
{
	unsigned int i;

	for (i = 0; i < cfg->nr_drives; i++) {
		const struct drive_config *drive = &cfg->drives[i];

		if (!drive->is_root_device)
			continue;
		if (drive->partuuid[0])
			append(text, " root=PARTUUID=%s", drive->partuuid);
		else
			append(text, " root=/dev/vda");
		append(text, drive->is_read_only ? " ro" : " rw");
	}
}

/* The word "--", behind which everything is init's, or the end of args. The kernel's parser splits words alike. */
static const char *init_args(const char *args)
{
	bool quoted = false, word_starts = true;

	for (; *args; args++) {
		if (word_starts && !strncmp(args, "--", 2) && (!args[2] || isspace((unsigned char)args[2])))
			break;
		if (*args == '"')
			quoted = !quoted;
		word_starts = !quoted && isspace((unsigned char)*args);
	}
	return args;
}

int cmdline_build(char out[CONFIG_CMDLINE_SIZE], const struct config *cfg, unsigned int nr_virtio, struct error *err)
{
	const char *args = cfg->boot.boot_args_given ? cfg->boot.boot_args : CMDLINE_DEFAULT;
	const char *for_init = init_args(args);
	size_t own = (size_t)(for_init - args);
	struct text text = { .at = out, .room = CONFIG_CMDLINE_SIZE };
	unsigned int i;

	while (*for_init && own && isspace((unsigned char)args[own - 1]))
		own--;
	append(&text, "%.*s", (int)own, args);
	append_root(&text, cfg);
	for (i = 0; i < nr_virtio; i++)
		append(&text, " virtio_mmio.device=4K@%#llx:%u", X86_VIRTIO_GPA + i * X86_VIRTIO_SIZE,
		       X86_VIRTIO_GSI + i);
	append(&text, " vmgenid.device=%#x:%#x", BOOT_VMGENID_GPA, X86_VMGENID_PORT);
	if (*for_init)
		append(&text, " %s", for_init);
	if (!text.room)
		return error_set(
			err, -E2BIG,
			"boot-source.boot_args: too long with what the machine adds (at most %d bytes together)",
			CONFIG_CMDLINE_SIZE - 1);
	return 0;
}
