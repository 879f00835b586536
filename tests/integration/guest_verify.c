/*
 * guest_verify.c: random writes, reads, flushes, discards and zeroings on a block device from several processes at once,
 * each checking every byte it reads. Runs in the guest; verify_model.py repeats the same sequence on the host.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define SECTOR	    512u
#define MAX_SECTORS 256u
#define MAX_IOV	    8u

/* A process with a part of the disk to itself. stamp: which of its operations wrote a sector last, 0: it is zero. */
struct job {
	int fd;
	uint64_t random;
	uint64_t number, first, sectors;
	uint32_t *stamp;
	uint8_t *buf;
	uint64_t mismatches;
};

/* xorshift64: the same in verify_model.py. */
static uint64_t next_random(struct job *job)
{
	job->random ^= job->random << 13;
	job->random ^= job->random >> 7;
	job->random ^= job->random << 17;
	return job->random;
}

static void fail(const char *what)
{
	printf("verify: %s: %s\n", what, strerror(errno));
	exit(2);
}

/* Every 16 bytes say where they belong and who wrote them. */
static void expected_words(const struct job *job, uint64_t sector, uint64_t words[2])
{
	uint32_t stamp = job->stamp[sector];

	words[0] = stamp ? job->first + sector : 0;
	words[1] = stamp ? job->number << 32 | stamp : 0;
}

static void fill(const struct job *job, uint64_t sector, uint64_t n)
{
	uint64_t words[2];

	for (uint64_t i = 0; i < n; i++) {
		expected_words(job, sector + i, words);
		for (unsigned int at = 0; at < SECTOR; at += sizeof(words))
			memcpy(job->buf + i * SECTOR + at, words, sizeof(words));
	}
}

static void check(struct job *job, uint64_t sector, uint64_t n)
{
	uint64_t words[2];

	for (uint64_t i = 0; i < n; i++) {
		expected_words(job, sector + i, words);
		for (unsigned int at = 0; at < SECTOR; at += sizeof(words)) {
			if (!memcmp(job->buf + i * SECTOR + at, words, sizeof(words)))
				continue;
			printf("verify: job %llu, sector %llu, byte %u: not what was written\n", (unsigned long long)job->number,
			       (unsigned long long)(job->first + sector + i), at);
			job->mismatches++;
			break;
		}
	}
}

/* One request of n sectors in up to MAX_IOV pieces of odd lengths, so that descriptors are not all pages. */
static void transfer(struct job *job, int write, uint64_t sector, uint64_t n)
{
	struct iovec iov[MAX_IOV];
	unsigned int pieces = 0;
	uint64_t done = 0;
	ssize_t moved;

	while (done < n) {
		uint64_t piece = pieces == MAX_IOV - 1 ? n - done : 1 + (n + pieces) % 7 * 3;

		if (piece > n - done)
			piece = n - done;
		iov[pieces].iov_base = job->buf + done * SECTOR;
		iov[pieces++].iov_len = piece * SECTOR;
		done += piece;
	}
	if (write)
		moved = pwritev(job->fd, iov, (int)pieces, (off_t)((job->first + sector) * SECTOR));
	else
		moved = preadv(job->fd, iov, (int)pieces, (off_t)((job->first + sector) * SECTOR));
	if (moved != (ssize_t)(n * SECTOR))
		fail(write ? "write" : "read");
}

static void clear(struct job *job, unsigned long how, uint64_t sector, uint64_t n)
{
	uint64_t range[2] = { (job->first + sector) * SECTOR, n * SECTOR };

	if (ioctl(job->fd, how, range))
		fail(how == BLKDISCARD ? "discard" : "zero");
	memset(job->stamp + sector, 0, n * sizeof(*job->stamp));
}

static void step(struct job *job, uint32_t number)
{
	uint64_t kind = next_random(job) % 100;
	uint64_t n = 1 + next_random(job) % MAX_SECTORS;
	uint64_t sector = next_random(job) % (job->sectors - n);

	if (kind < 45) {
		for (uint64_t i = 0; i < n; i++)
			job->stamp[sector + i] = number;
		fill(job, sector, n);
		transfer(job, 1, sector, n);
	} else if (kind < 85) {
		transfer(job, 0, sector, n);
		check(job, sector, n);
	} else if (kind < 90) {
		if (fdatasync(job->fd))
			fail("flush");
	} else {
		clear(job, kind < 95 ? BLKDISCARD : BLKZEROOUT, sector, n);
	}
}

static int run_job(struct job *job, uint32_t ops)
{
	void *buf;

	if (posix_memalign(&buf, 4096, MAX_SECTORS * SECTOR))
		fail("memory");
	job->buf = buf;
	job->stamp = calloc(job->sectors, sizeof(*job->stamp));
	if (!job->stamp)
		fail("memory");
	for (uint32_t i = 1; i <= ops; i++)
		step(job, i);
	for (uint64_t at = 0, n; at < job->sectors; at += n) {
		n = job->sectors - at < MAX_SECTORS ? job->sectors - at : MAX_SECTORS;
		transfer(job, 0, at, n);
		check(job, at, n);
	}
	if (fsync(job->fd))
		fail("flush");
	printf("verify: job %llu: %u operations, %llu mismatches\n", (unsigned long long)job->number, ops,
	       (unsigned long long)job->mismatches);
	return job->mismatches != 0;
}

int main(int argc, char **argv)
{
	unsigned long jobs, ops;
	uint64_t bytes;
	int fd, status, worst = 0;

	if (argc != 5) {
		fprintf(stderr, "usage: guest_verify DEVICE JOBS OPERATIONS SEED\n");
		return 64;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	jobs = strtoul(argv[2], NULL, 10);
	ops = strtoul(argv[3], NULL, 10);
	fd = open(argv[1], O_RDWR | O_DIRECT | O_CLOEXEC);
	if (fd < 0 || ioctl(fd, BLKGETSIZE64, &bytes))
		fail(argv[1]);
	for (unsigned long i = 0; i < jobs; i++) {
		struct job job = {
			.fd = fd,
			.random = (strtoull(argv[4], NULL, 10) + i + 1) * 0x9e3779b97f4a7c15,
			.number = i,
			.first = i * (bytes / SECTOR / jobs),
			.sectors = bytes / SECTOR / jobs,
		};

		if (fork() == 0)
			exit(run_job(&job, (uint32_t)ops));
	}
	while (wait(&status) > 0) {
		if (!WIFEXITED(status) || WEXITSTATUS(status) > worst)
			worst = WIFEXITED(status) ? WEXITSTATUS(status) : 3;
	}
	printf("verify: %lu jobs done, worst status %d\n", jobs, worst);
	return worst;
}
