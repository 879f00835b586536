/* guest.h: what every part of the test guest shares: the machine as found at boot, printing, strings, memory. */
#ifndef GUEST_H
#define GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MAX_RAM_RANGES 16
#define MAX_DEVICES    32
#define MAX_BLK        8
#define MAX_NET        4
#define MAX_WORDS      24
#define CMDLINE_MAX    16384

#define TIMER_ADDR  0xc0000000ull /* one byte, 123: "user space reached" */
#define STATUS_ADDR 0xc0000004ull /* 32 bits: exit status for the host */

/*
 * Timeouts are in ticks of the time stamp counter, whose frequency the guest does not know. 3 GHz is assumed; a slower
 * counter only makes the guest more patient.
 */
#define TICKS_PER_MS 3000000ull

struct ram_range {
	uint64_t start, end;
};

struct blk;
struct net;
struct vsock;

struct guest {
	char cmdline[CMDLINE_MAX];
	struct ram_range ram[MAX_RAM_RANGES];
	unsigned int nr_ram;
	uint64_t device[MAX_DEVICES]; /* addresses from virtio_mmio.device=, in order */
	unsigned int nr_devices;
	struct blk *blk[MAX_BLK]; /* block devices among them, found at the first use */
	unsigned int nr_blk;
	bool blk_searched;
	struct net *net[MAX_NET]; /* network devices, the same */
	unsigned int nr_net;
	bool net_searched;
	struct vsock *vsock;       /* found at the first use */
	uint64_t arena, arena_end; /* memory not yet given out */
	unsigned int steps, failed;
	bool status_sent;
};

/* A step of the script, cut into words. Words of the form key=value are options. */
struct step {
	char *word[MAX_WORDS];
	unsigned int nr;
	const char *text; /* the step as written */
	struct guest *g;
};

/* start.S */
void service(int what);
extern char guest_end[];

/* boot.c: fills in cmdline, ram, device and the arena from what the loader left. */
void boot_parse(struct guest *g, unsigned int how, uint64_t info);
uint64_t ram_end(const struct guest *g);
bool is_ram(const struct guest *g, uint64_t addr);

/* serial.c */
void put_char(char c);
void put_string(const char *s);
/* say - printf for %s %c %u %llu %x %llx only. */
__attribute__((format(printf, 1, 2))) void say(const char *fmt, ...);

/* lib.c */
void *memset(void *dst, int value, size_t len);
void *memcpy(void *dst, const void *src, size_t len);
size_t strlen(const char *s);
bool equal(const char *a, const char *b);
/* starts_with - what follows prefix in s, or NULL. */
const char *starts_with(const char *s, const char *prefix);
/* parse_number - decimal or 0x hexadecimal with an optional k, M, G (KiB, MiB, GiB); end may be NULL for "all of it".
 */
bool parse_number(const char *s, uint64_t *value, const char **end);
/* alloc - zeroed memory that is never given back; NULL when RAM is used up. align is a power of two. */
void *alloc(struct guest *g, uint64_t len, uint64_t align);
/* reserve - the same without touching it. */
void *reserve(struct guest *g, uint64_t len, uint64_t align);

/* script.c: runs all steps of mayfly.test="…"; step_option looks for key=number among the words. */
void script_run(struct guest *g);
uint64_t step_option(struct step *s, const char *key, uint64_t otherwise);
const char *step_text(struct step *s, const char *key, const char *otherwise);
/* step_number - word i as a number or dev0+0x70-like address; false (and a message) when it is not one. */
bool step_number(struct step *s, unsigned int i, uint64_t *value);

/* steps.c: one step; false when it failed. */
bool step_run(struct step *s);

#endif
