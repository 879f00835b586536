/* fuzz_agent.c: the guest's agent and its peers: frames from either side, requests with the image's files, tar
 * archives. */
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "command.h"
#include "files.h"
#include "fuzz.h"
#include "tar.h"

/* An image's root with the files that the agent reads, whose contents the input says. */
static const char *const names[] = { ".mayfly/config", "etc/passwd", "etc/group" };
static char folder[] = "/dev/shm/fuzz-agent-XXXXXX";
static int root = -1, files[3];

static void remove_root(void)
{
	for (int i = 0; i < 3; i++)
		unlinkat(root, names[i], 0);
	unlinkat(root, ".mayfly", AT_REMOVEDIR);
	unlinkat(root, "etc", AT_REMOVEDIR);
	rmdir(folder);
}

/* By system call: fuzz.c has its own open. */
static void make_root(void)
{
	CHECK(mkdtemp(folder));
	root = (int)syscall(SYS_openat, AT_FDCWD, folder, O_PATH | O_DIRECTORY);
	CHECK(root >= 0 && !mkdirat(root, ".mayfly", 0700) && !mkdirat(root, "etc", 0700));
	atexit(remove_root);
	for (int i = 0; i < 3; i++) {
		files[i] = (int)syscall(SYS_openat, root, names[i], O_RDWR | O_CREAT, 0600);
		CHECK(files[i] >= 0);
	}
}

/* Every field is found again by its key, and all of them lie in the text. */
static void check_fields(const char *text, size_t len)
{
	struct fields f = { text, len };
	const char *field = NULL;
	size_t total = 0;
	int64_t n;

	if (fields_check(text, len))
		return;
	while ((field = field_next(&f, NULL, field))) {
		char key[64] = "";

		CHECK(field >= text && field < text + len && strchr(field, '='));
		total += strlen(field) + 1;
		snprintf(key, sizeof(key), "%.*s", (int)strcspn(field, "="), field);
		if (strcspn(field, "=") < sizeof(key)) {
			CHECK(field_get(&f, key));
			if (!field_number(&f, key, -100, 100, &n))
				CHECK(n >= -100 && n <= 100);
		}
	}
	CHECK(total == len);
}

/* A stream in pieces: what one reader takes is what another one that gets it byte by byte takes. */
static void fuzz_frames(struct input *in)
{
	static struct frame_reader big, small;
	size_t wanted;
	int a = 0, b = 0;

	memset(&big, 0, sizeof(big));
	memset(&small, 0, sizeof(small));
	while (in->left && a >= 0) {
		size_t n = take8(in) % 64 + 1u;

		wanted = frame_wanted(&big);
		CHECK(wanted && wanted <= FRAME_MAX);
		n = n < wanted ? n : wanted;
		n = take_bytes(in, frame_space(&big), n);
		for (size_t i = 0; i < n; i++) {
			CHECK(b == 0 && frame_wanted(&small));
			*(uint8_t *)frame_space(&small) = ((uint8_t *)frame_space(&big))[i];
			b = frame_got(&small, 1);
		}
		if (!n)
			break;
		a = frame_got(&big, n);
		CHECK(a == b);
		if (a <= 0)
			continue;
		CHECK(big.len == small.len && big.type == small.type && big.len <= FRAME_MAX &&
		      !frame_payload(&big)[big.len]);
		CHECK(!memcmp(frame_payload(&big), frame_payload(&small), big.len));
		check_fields(frame_payload(&big), big.len);
		fields_are_whole(frame_payload(&big), big.len);
		frame_next(&big);
		frame_next(&small);
		a = b = 0;
	}
}

/* A request as it comes over a connection, and files as an image may have them: a command, or a sentence. */
static void fuzz_request(struct input *in)
{
	static struct connection c;
	struct agent agent = { .root = root };
	struct command command = { 0 };
	struct error err = { 0 };
	bool is_main = take8(in) & 1;
	int pair[2], ret;
	char *text = NULL;
	size_t len = 0;

	for (int i = 0; i < 3; i++) {
		struct input part = take_span(in, take8(in));

		CHECK(!ftruncate(files[i], 0) && pwrite(files[i], part.at, part.left, 0) == (ssize_t)part.left);
	}
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	CHECK(write(pair[0], in->at, in->left) == (ssize_t)in->left);
	close(pair[0]);
	c.fd = pair[1];
	ret = request_read(&c, &text, &len, &err);
	CHECK(ret >= 0 || (*err.message && err.code < 0));
	if (!ret) {
		struct fields f = { text, len };

		check_fields(text, len);
		ret = command_parse(&agent, &f, is_main, &command, &err);
		CHECK(!ret == !err.code && (!ret || *err.message));
		CHECK(ret || (command.argv[0] && command.envp[0] && *command.cwd == '/' && command.stop_signal > 0));
		for (char **e = command.envp; !ret && *e; e++)
			CHECK(strchr(*e, '=') > *e);
		command_free(&command);
	}
	free(text);
	close(pair[1]);
}

/* Records and a header from anywhere; what is taken can be written, and is then read as the same. */
static void fuzz_tar(struct input *in)
{
	static struct tar_entry e, again;
	static char blocks[2 * PATH_MAX + 8 * TAR_BLOCK], records[2 * PATH_MAX + 8 * TAR_BLOCK];
	static const char types[] = "xLK";
	struct tar_header h;
	size_t len;

	e = again = (struct tar_entry){ .size = -1, .uid = (uid_t)-1, .gid = (gid_t)-1 };
	while (take8(in) & 1) {
		len = take_bytes(in, records, take8(in));
		records[len] = '\0';
		if (!tar_records(types[take8(in) % 3], records, len, &e))
			return;
	}
	take_bytes(in, &h, sizeof(h));
	if (take8(in) & 1) { /* a sum that is right */
		unsigned int sum = ' ' * sizeof(h.sum);

		memcpy(h.magic, "ustar", 5);
		for (size_t i = 0; i < sizeof(h); i++)
			sum += i - 148 < 8 ? 0 : ((uint8_t *)&h)[i];
		snprintf(h.sum, sizeof(h.sum), "%06o", sum & 0777777);
		h.sum[7] = ' ';
	}
	if (tar_parse(&h, &e) != 1)
		return;
	CHECK(e.size >= 0 && strlen(e.name) < PATH_MAX && strlen(e.link) < PATH_MAX);
	tar_name_ok(e.name);
	len = tar_format(&e, blocks, sizeof(blocks));
	CHECK(len >= TAR_BLOCK && len % TAR_BLOCK == 0 && len <= sizeof(blocks));
	if (len > TAR_BLOCK) {
		static struct tar_entry own;

		own = (struct tar_entry){ .size = -1, .uid = (uid_t)-1, .gid = (gid_t)-1 };
		memcpy(&h, blocks, sizeof(h));
		CHECK(tar_parse(&h, &own) == 1 && own.type == 'x' && own.size <= (int64_t)(len - 2 * TAR_BLOCK));
		memcpy(records, blocks + TAR_BLOCK, (size_t)own.size);
		records[own.size] = '\0';
		CHECK(tar_records('x', records, (size_t)own.size, &again));
	}
	memcpy(&h, blocks + len - TAR_BLOCK, sizeof(h));
	CHECK(tar_parse(&h, &again) == 1);
	CHECK(!strcmp(e.name, again.name) && !strcmp(e.link, again.link) && e.size == again.size &&
	      e.mode == again.mode);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static void (*const modes[])(struct input *) = { fuzz_frames, fuzz_request, fuzz_tar };
	struct input in = { data, size };

	if (root < 0)
		make_root();
	modes[take8(&in) % 3](&in);
	return 0;
}
