/* fuzz_api.c: hostile clients of the REST API: any bytes, every endpoint with any JSON, in any order and state. */
#include <jansson.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "api_internal.h"
#include "api_requests.h"
#include "config_dump.h"
#include "config_json.h"
#include "fake_machine.h"
#include "inherited.h"
#include "metrics.h"

#include "fuzz.h"

#define CLIENTS  4u
#define BODY_MAX 4096u

static struct event_loop loop;
static struct timeline timeline;
static struct config cfg;
static struct api *api;
static struct sockaddr_un address;
static socklen_t address_len = sizeof(address);
static int client[CLIENTS] = { -1, -1, -1, -1 }, disk = -1, config_file = -1;

/* ---- clients ---- */

static void hang_up(unsigned int i)
{
	if (client[i] >= 0)
		close(client[i]);
	client[i] = -1;
}

static void dial(unsigned int i)
{
	hang_up(i);
	client[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	CHECK(client[i] >= 0);
	if (connect(client[i], (struct sockaddr *)&address, address_len))
		hang_up(i);
}

static void turns(unsigned int n)
{
	while (n-- && fuzz_turn(&loop))
		;
}

/* An answer is HTTP; a whole one in JSON is JSON, and a refusal has its sentence. */
static void check_answer(char *text, size_t len)
{
	char *body, *length;
	json_t *json;

	text[len] = '\0';
	CHECK(strncmp(text, "HTTP/1.1 ", 9) == 0);
	CHECK(text[9] >= '1' && text[9] <= '5');
	body = strstr(text, "\r\n\r\n");
	length = strstr(text, "Content-Length: ");
	if (!body || !length || length > body || !strstr(text, "application/json"))
		return;
	body += 4;
	if ((size_t)strtoul(length + 16, NULL, 10) != len - (size_t)(body - text))
		return;
	json = json_loads(body, 0, NULL);
	CHECK(json);
	if (text[9] == '4')
		CHECK(json_is_string(json_object_get(json, "fault_message")));
	json_decref(json);
}

static void hear(unsigned int i, bool check)
{
	static char text[1 << 18];
	ssize_t n = recv(client[i], text, sizeof(text) - 1, MSG_DONTWAIT);

	if (n > 0 && check)
		check_answer(text, (size_t)n);
}

static void send_bytes(unsigned int i, const void *bytes, size_t len)
{
	if (client[i] < 0)
		dial(i);
	if (client[i] >= 0)
		(void)!send(client[i], bytes, len, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* A whole request on a connection of its own: then the answer is the whole answer. */
static void request(const char *verb, const char *path, const char *body, size_t len)
{
	char head[256];
	int n = snprintf(head, sizeof(head), "%s %s HTTP/1.1\r\nContent-Length: %zu\r\n\r\n", verb, path, len);

	dial(0);
	send_bytes(0, head, (size_t)n);
	send_bytes(0, body, len);
	turns(3);
	hear(0, true);
	hang_up(0);
}

static void request_from_input(struct input *in)
{
	const char *path = paths[take8(in) % (sizeof(paths) / sizeof(paths[0]))];
	uint8_t verb = take8(in);
	struct input body = take_span(in, take16(in) % BODY_MAX);

	request(verbs[verb & 7], path, (const char *)body.at, body.left);
}

/* One of the right ones, with up to 255 bytes put where they have a place. */
static void request_from_table(struct input *in)
{
	unsigned int which = take8(in) % NR_REQUESTS;
	const char *text = requests[which].body, *place = strchr(text, '\1');
	struct input more = place ? take_span(in, take8(in)) : (struct input){ 0 };
	size_t len = place ? (size_t)(place - text) : strlen(text);
	char body[1024];

	memcpy(body, text, len);
	if (more.left)
		memcpy(body + len, more.at, more.left);
	len += more.left;
	if (place) {
		memcpy(body + len, place + 1, strlen(place + 1));
		len += strlen(place + 1);
	}
	request(requests[which].verb, requests[which].path, body, len);
}

static void happen(uint8_t what)
{
	const struct machine_news news = { .event = what & 8 ? MACHINE_DEVICE_BROKEN : MACHINE_VSOCK_LISTENS,
					   .device_id = "a",
					   .port = what };

	if (what & 16)
		fake_machine_parked();
	else
		fake_machine_tell(&news);
}

static void step(struct input *in)
{
	uint8_t op = take8(in), i = 1 + (op >> 3) % (CLIENTS - 1);
	struct input span;

	switch (op & 7) {
	case 0:
	case 1:
		request_from_table(in);
		break;
	case 2:
		request_from_input(in);
		break;
	case 3:
		span = take_span(in, take16(in) % BODY_MAX);
		send_bytes(i, span.at, span.left);
		break;
	case 4:
		turns(1 + (op >> 3) % 4);
		break;
	case 5:
		if (op & 0x80)
			hang_up(i);
		else
			hear(i, false);
		break;
	case 6:
		happen(op >> 3);
		break;
	default:
		fuzz_pass_ns((uint64_t)take8(in) << 28);
	}
}

/* ---- set-up ---- */

static void prepare(void)
{
	const struct api_options options = { .id = "fuzz",
					     .fork_fd = -1,
					     .ready_fd = -1,
					     .body_max = BODY_MAX,
					     .listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0) };
	struct error err;

	/* "fd:N" must not be anything of the fuzzer's. */
	inherited_note(0);
	disk = memfd_create("disk", MFD_CLOEXEC);
	config_file = memfd_create("config", MFD_CLOEXEC);
	CHECK(ftruncate(disk, 1 << 20) == 0);
	/* A name that the kernel chooses, in no file system. */
	address.sun_family = AF_UNIX;
	CHECK(bind(options.listen_fd, (struct sockaddr *)&address, sizeof(address.sun_family)) == 0);
	CHECK(getsockname(options.listen_fd, (struct sockaddr *)&address, &address_len) == 0);
	CHECK(listen(options.listen_fd, 16) == 0);
	fake_machine_begin(&loop, &cfg);
	CHECK(api_create(&api, &fake_machine, &cfg, &timeline, &options, &err) == 0);
}

static void configure(void)
{
	struct error err;

	config_init(&cfg);
	memcpy(cfg.log.log_path, "/dev/null", sizeof("/dev/null"));
	CHECK(log_init(&cfg.log, "fuzz", &err) == 0);
	CHECK(metrics_open("", &err) == 0);
	metrics_set_labels(NULL, NULL);
	api->events.nr = 0;
	api->last_stop = NULL;
}

/* What GET /vm/config tells, as a configuration file, is the same configuration. */
static void check_dump(void)
{
	static struct config again;
	json_t *json = config_dump(&cfg), *json_again;
	char *text = json_dumps(json, 0);
	struct error err = { 0 };

	CHECK(text);
	CHECK(ftruncate(config_file, 0) == 0);
	CHECK(pwrite(config_file, text, strlen(text), 0) == (ssize_t)strlen(text));
	config_init(&again);
	if (config_parse_file("/config", &again, &err)) {
		fprintf(stderr, "%s\n%s\n", err.message, text);
		CHECK(!"a dumped configuration is understood");
	}
	json_again = config_dump(&again);
	CHECK(json_equal(json, json_again));
	config_free(&again);
	json_decref(json_again);
	json_decref(json);
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	unsigned int i;

	fuzz_begin(&loop);
	if (!api) {
		prepare();
		fuzz_begin(&loop);
	}
	fuzz_file("/disk", disk);
	fuzz_file("/config", config_file);
	configure();
	fake_machine_begin(&loop, &cfg);
	for (i = 0; i < 32 && in.left; i++)
		step(&in);
	check_dump();
	for (i = 0; i < CLIENTS; i++)
		hang_up(i);
	fuzz_rest(&loop);
	fake_machine_end();
	fuzz_rest(&loop);
	fuzz_pass_ns(20000000000ull);
	fuzz_rest(&loop);
	config_free(&cfg);
	configure(); /* which closes what log and metrics were sent to */
	fuzz_end(&loop);
	return 0;
}
