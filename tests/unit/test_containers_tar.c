/* test_containers_tar.c: what a hostile guest's archive can do to the host's files: nothing outside of one folder. */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "containers/tar_files.h"
#include "rootfs/init/tar.h"

#define ARCHIVE_MAX 65536
#define ROUNDS      3000

struct archive {
	char bytes[ARCHIVE_MAX];
	size_t len, given, piece; /* piece: how much comes at once */
	uint64_t max;             /* 0: none */
	unsigned int repeat;      /* all of it, so many times again */
};

static char top[] = "/tmp/mayfly-tar-XXXXXX", inside[64];

static void add(struct archive *a, char type, const char *name, const char *link, const char *data)
{
	struct tar_entry e = { .type = type, .mode = 06777, .size = data ? (int64_t)strlen(data) : 0, .mtime = 1 };
	size_t len;

	snprintf(e.name, sizeof(e.name), "%s", name);
	snprintf(e.link, sizeof(e.link), "%s", link ? link : "");
	len = tar_format(&e, a->bytes + a->len, sizeof(a->bytes) - a->len);
	assert_true(len > 0);
	a->len += len;
	if (data) {
		memcpy(a->bytes + a->len, data, strlen(data));
		a->len += TAR_BLOCK;
	}
}

static void fix_sum(struct tar_header *h)
{
	const unsigned char *bytes = (const unsigned char *)h;
	unsigned int sum = 0, i;

	memset(h->sum, ' ', sizeof(h->sum));
	for (i = 0; i < TAR_BLOCK; i++)
		sum += bytes[i];
	snprintf(h->sum, sizeof(h->sum), "%06o", sum);
}

static ssize_t next(struct tar_source *source, const char **bytes, struct error *err)
{
	struct archive *a = source->arg;
	size_t n = a->len - a->given < a->piece ? a->len - a->given : a->piece;

	(void)err;
	*bytes = a->bytes + a->given;
	a->given += n;
	if (!n && a->repeat) {
		a->repeat--;
		a->given = n = a->len;
		*bytes = a->bytes;
	}
	return (ssize_t)n;
}

static int unpack(struct archive *a, struct tar_left *left, struct error *err)
{
	struct tar_source source = { .next = next, .arg = a };
	int root = open(inside, O_RDONLY | O_DIRECTORY), ret;

	assert_true(root >= 0);
	a->given = 0;
	*err = (struct error){ 0 };
	ret = tar_unpack_from(&source, root, a->max ? a->max : UINT64_MAX, left, err);
	close(root);
	return ret;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static int set_up(void **state)
{
	char path[80];
	int fd;

	(void)state;
	assert_non_null(mkdtemp(top));
	snprintf(inside, sizeof(inside), "%s/inside", top);
	assert_int_equal(mkdir(inside, 0755), 0);
	snprintf(path, sizeof(path), "%s/outside", top);
	fd = open(path, O_WRONLY | O_CREAT, 0644);
	assert_int_equal(write(fd, "as it was", 9), 9);
	return close(fd);
}

static int tear_down(void **state)
{
	(void)state;
	nftw(top, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	memcpy(strrchr(top, '-'), "-XXXXXX", 8);
	return 0;
}

static void outside_is_as_it_was(void)
{
	char path[80], text[16];
	struct stat st;
	FILE *file;

	snprintf(path, sizeof(path), "%s/outside", top);
	file = fopen(path, "r");
	assert_non_null(file);
	assert_int_equal(fread(text, 1, sizeof(text), file), 9);
	assert_memory_equal(text, "as it was", 9);
	fclose(file);
	assert_int_equal(stat(top, &st), 0);
	assert_int_equal(st.st_nlink, 3);
}

static const char *content(const char *name)
{
	static char text[64];
	char path[PATH_MAX];
	FILE *file;
	size_t n;

	snprintf(path, sizeof(path), "%s/%s", inside, name);
	file = fopen(path, "r");
	assert_non_null(file);
	n = fread(text, 1, sizeof(text) - 1, file);
	text[n] = '\0';
	fclose(file);
	return text;
}

static void files(void **state)
{
	static struct archive a;
	char longer[180], path[PATH_MAX];
	struct tar_left left;
	struct error err;
	struct stat st;

	(void)state;
	memset(longer, 'n', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = '\0';
	for (a.piece = 1; a.piece < 2000; a.piece = a.piece * 3 + 1) {
		a.len = 0;
		add(&a, '5', "folder/", NULL, NULL);
		add(&a, '0', "folder/file", NULL, "words");
		add(&a, '0', longer, NULL, "long");
		add(&a, '2', "folder/link", "../folder/file", NULL);
		add(&a, '0', "made/on/the/way", NULL, "x");
		memset(a.bytes + a.len, 0, (size_t)2 * TAR_BLOCK);
		a.len += (size_t)2 * TAR_BLOCK;
		assert_int_equal(unpack(&a, &left, &err), 0);
		assert_int_equal(left.count, 0);
	}
	assert_string_equal(content("folder/link"), "words");
	assert_string_equal(content(longer), "long");
	assert_string_equal(content("made/on/the/way"), "x");
	snprintf(path, sizeof(path), "%s/folder/file", inside);
	assert_int_equal(lstat(path, &st), 0);
	assert_int_equal(st.st_mode & 07000, 0);
	assert_int_equal(st.st_mtime, 1);
}

static void links(void **state)
{
	static const struct {
		const char *name, *target;
		bool stays;
	} cases[] = {
		{ "a", "b", true },           { "a", "/b", false },         { "a", "..", false },
		{ "a", "../b", false },       { "d/a", "..", true },        { "d/a", "../b", true },
		{ "d/a", "../../b", false },  { "d/e/a", "../../b", true }, { "a", "b/..", false },
		{ "d/a", "b/../..", false },  { "a", "", false },           { "d/a", ".././b", true },
		{ "./a", "..", false },       { "d//a", "../..", false },   { "d/a", ".//..//b", true },
		{ "d/a", "..//../b", false }, { "a", "...", true },         { "a", "..b", true },
	};
	unsigned int i;

	(void)state;
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		if (tar_link_stays(cases[i].name, cases[i].target) != cases[i].stays)
			fail_msg("%s -> %s", cases[i].name, cases[i].target);
}

static void links_in_the_way(void **state)
{
	static struct archive a;
	struct tar_left left;
	struct error err;

	(void)state;
	/* One that the archive did not bring. */
	assert_int_equal(chdir(inside), 0);
	assert_int_equal(symlink("..", "up"), 0);
	assert_int_equal(symlink("../outside", "it"), 0);
	assert_int_equal(chdir("/"), 0);
	a.len = 0;
	a.piece = 512;
	add(&a, '0', "it", NULL, "new");
	assert_int_equal(unpack(&a, &left, &err), 0);
	assert_string_equal(content("it"), "new");
	a.len = 0;
	add(&a, '0', "up/outside", NULL, "new");
	assert_true(unpack(&a, &left, &err) < 0);
	a.len = 0;
	add(&a, '5', "up", NULL, NULL);
	assert_true(unpack(&a, &left, &err) < 0);
	outside_is_as_it_was();
}

/* Any bytes: it ends, and what is outside stays. The same every time. */
static void mutations(void **state)
{
	static struct archive good, a;
	struct tar_left left;
	struct error err;
	unsigned int round, n, seed = 1;

	(void)state;
	add(&good, '5', "d", NULL, NULL);
	add(&good, '0', "d/file", NULL, "some words");
	add(&good, '2', "d/l", "..", NULL);
	add(&good, '2', "l", "d", NULL);
	add(&good, '0', "l/file", NULL, "more words");
	add(&good, '1', "hard", "d/file", NULL);
	add(&good, '0',
	    "a/very/long/name/that/does/not/fit/into/the/header/so/that/a/pax/record/comes/first/and/is/read/as/well",
	    NULL, "x");
	for (round = 0; round < ROUNDS; round++) {
		memcpy(a.bytes, good.bytes, good.len);
		a.len = round % 3 ? good.len : (size_t)rand_r(&seed) % good.len;
		a.piece = 1 + (size_t)rand_r(&seed) % 1500;
		for (n = (unsigned int)rand_r(&seed) % 12; n > 0; n--)
			a.bytes[(size_t)rand_r(&seed) % good.len] = "/.\0\xff"
								    "0127xLKg5=9"[rand_r(&seed) % 15];
		/* Else the checksum would be all that is ever tested. */
		for (n = 0; n + TAR_BLOCK <= good.len; n += TAR_BLOCK) {
			struct tar_header *h = (struct tar_header *)(void *)(a.bytes + n);

			if (memcmp(h->magic, "ustar", 5) == 0)
				fix_sum(h);
		}
		(void)unpack(&a, &left, &err);
	}
	outside_is_as_it_was();
}

/* Neither in bytes, nor in entries that hold none, nor behind the end. */
static void no_end(void **state)
{
	struct archive a = { .piece = 700, .max = 3 * 16384 };
	struct tar_left left;
	struct error err;
	unsigned int i;

	(void)state;
	for (i = 0; i < 3; i++)
		add(&a, '0', "file", NULL, "x");
	assert_int_equal(unpack(&a, &left, &err), 0);
	add(&a, '1', "link", "file", NULL);
	assert_int_equal(unpack(&a, &left, &err), -EFBIG);
	a.max = 16384;
	a.len = 0;
	add(&a, '0', "file", NULL, "x");
	memcpy(((struct tar_header *)(void *)a.bytes)->size, "00000040001", 12);
	fix_sum((struct tar_header *)(void *)a.bytes);
	assert_int_equal(unpack(&a, &left, &err), -EFBIG);
	memset(a.bytes, 0, sizeof(a.bytes));
	a.len = sizeof(a.bytes);
	a.piece = 65536;
	a.repeat = 17;
	assert_int_equal(unpack(&a, &left, &err), -EPROTO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(files, set_up, tear_down),
		cmocka_unit_test(links),
		cmocka_unit_test_setup_teardown(no_end, set_up, tear_down),
		cmocka_unit_test_setup_teardown(links_in_the_way, set_up, tear_down),
		cmocka_unit_test_setup_teardown(mutations, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
