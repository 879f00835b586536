/* test_mmds_http.c: requests to the metadata service and its answers, byte for byte; then requests nobody would send.
 */
#include "mmds_fixture.h"

#include "mmds/http.h"

static struct mmds_http http;
static char answer[70000];

/* Feeds all of it in pieces of `piece` bytes; returns how many answers came, the last is in `answer`. */
static unsigned int feed(const char *bytes, size_t len, size_t piece, bool *closed)
{
	struct mmds_response response;
	unsigned int count = 0;
	size_t n;

	*closed = false;
	while (len && !*closed) {
		n = len < piece ? len : piece;
		n = n < mmds_http_room(&http) ? n : mmds_http_room(&http);
		memcpy(http.buf + http.len, bytes, n);
		mmds_http_added(&http, n);
		bytes += n;
		len -= n;
		while (!*closed && mmds_http_answer(&http, mmds, &response)) {
			assert_non_null(response.block);
			memcpy(answer, response.bytes, response.len);
			answer[response.len] = '\0';
			*closed = response.close;
			free(response.block);
			count++;
		}
	}
	return count;
}

static const char *ask(const char *request)
{
	bool closed;

	mmds_http_init(&http);
	assert_int_equal(feed(request, strlen(request), 4000, &closed), 1);
	return answer;
}

static void expect_answer(const char *request, unsigned int status, const char *body)
{
	char line[64];
	const char *got = ask(request), *start_of_body = strstr(got, "\r\n\r\n") + 4;

	snprintf(line, sizeof(line), "%u", status);
	if (strncmp(got + 9, line, 3) != 0 || strcmp(start_of_body, body) != 0)
		fail_msg("%s\nexpected %s %s, got\n%s", request, line, body, got);
	snprintf(line, sizeof(line), "Content-Length: %zu\r\n", strlen(body));
	assert_non_null(strstr(got, line));
}

#define TOKEN_REQUEST "PUT http://169.254.169.254/latest/api/token HTTP/1.0\r\n"
#define TTL_MISSING                                                                  \
	"Token time to live value not found. Use `X-metadata-token-ttl-seconds` or " \
	"`X-aws-ec2-metadata-token-ttl-seconds` header to specify the token's lifetime."
#define TOKEN_MISSING                                                                                     \
	"No MMDS token provided. Use `X-metadata-token` or `X-aws-ec2-metadata-token` header to specify " \
	"the session token."

/* What Firecracker's tests in mmds/mod.rs expect. */
static void errors_are_firecrackers(void **state)
{
	(void)state;
	for (int v = MMDS_V1; v <= MMDS_V2; v++) {
		mmds->version = (enum mmds_version)v;
		expect_answer("GET http:// HTTP/1.0\r\n\r\n", 400, "Invalid URI.");
		expect_answer("GET http://x HTTP/1.0\r\n\r\n", 400, "Invalid URI.");
		expect_answer("GET x HTTP/1.0\r\n\r\n", 400, "Invalid URI.");
		expect_answer("PATCH http://169.254.169.255/ HTTP/1.0\r\n\r\n", 405, "Not allowed HTTP method.");
		assert_non_null(strstr(answer, "\r\nAllow: GET, PUT\r\n"));
		expect_answer("DELETE / HTTP/1.1\r\n\r\n", 405, "Not allowed HTTP method.");
		expect_answer("POST / HTTP/1.1\r\n\r\n", 501, "Unsupported HTTP method.");
		expect_answer("CONNECT a:1 HTTP/1.1\r\n\r\n", 501, "Unsupported HTTP method.");
		expect_answer("FOO / HTTP/1.1\r\n\r\n", 501, "Unsupported HTTP method.");
		expect_answer("GET / HTTP/2.0\r\n\r\n", 501, "Unsupported HTTP version.");
		expect_answer("GET /\r\n\r\n", 501, "Unsupported HTTP version.");
		expect_answer("GET / HTTP/1.1\r\nbad header\r\n\r\n", 400, "Invalid request.");
		expect_answer("GET / HTTP/1.1\r\nContent-Length: 1\r\n\r\nx", 400, "Invalid request.");
		expect_answer("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "Invalid request.");
		expect_answer("PUT /token HTTP/1.0\r\nX-metadata-token-ttl-seconds: 60\r\n\r\n", 404,
			      "Resource not found: /token.");
		expect_answer(TOKEN_REQUEST "X-fOrWaRdEd-FoR: 203.0.113.195\r\n\r\n", 400,
			      "Invalid header. Reason: Unsupported header name. Key: X-fOrWaRdEd-FoR");
		expect_answer(TOKEN_REQUEST "X-metadata-token-ttl-seconds: application/json\r\n\r\n", 400,
			      "Invalid header. Reason: Invalid value. Key:X-metadata-token-ttl-seconds; "
			      "Value:application/json");
		expect_answer(TOKEN_REQUEST "X-metadata-token-ttl-seconds:\r\n\r\n", 400,
			      "Invalid header. Reason: Invalid value. Key:X-metadata-token-ttl-seconds; Value:");
		expect_answer(
			TOKEN_REQUEST "X-aws-ec2-metadata-token-ttl-seconds: 21601\r\n\r\n", 400,
			"Invalid time to live value provided for token: 21601. Please provide a value between 1 and "
			"21600.");
		expect_answer(TOKEN_REQUEST "X-metadata-token-ttl-seconds: 0\r\n\r\n", 400,
			      "Invalid time to live value provided for token: 0. Please provide a value between 1 and "
			      "21600.");
		expect_answer(TOKEN_REQUEST "\r\n", 400, TTL_MISSING);
	}
}

/* Returns the token in `answer`, copied. */
static void new_token(char token[MMDS_TOKEN_LEN + 1], unsigned int ttl)
{
	char request[256];

	snprintf(request, sizeof(request),
		 "PUT //latest/api//token HTTP/1.1\r\nx-AWS-ec2-metadata-token-TTL-seconds:  %u \r\n\r\n", ttl);
	ask(request);
	assert_memory_equal(answer, "HTTP/1.1 200 OK\r\n", 17);
	assert_non_null(strstr(answer, "\r\nx-AWS-ec2-metadata-token-TTL-seconds: "));
	strcpy(token, strstr(answer, "\r\n\r\n") + 4);
	assert_int_equal(strlen(token), MMDS_TOKEN_LEN);
}

static void v2_wants_a_token(void **state)
{
	const uint64_t none = metrics.mmds_rx_no_token, invalid = metrics.mmds_rx_invalid_token;
	char token[MMDS_TOKEN_LEN + 1], request[256];

	(void)state;
	mmds->version = MMDS_V2;
	new_token(token, 60);
	expect_answer(GET_KEY, 401, TOKEN_MISSING);
	assert_int_equal(metrics.mmds_rx_no_token, none + 1);
	expect_answer("GET /key HTTP/1.1\r\nX-metadata-token: x\r\n\r\n", 401, "MMDS token not valid.");
	expect_answer("GET /key HTTP/1.1\r\nX-metadata-token:\r\n\r\n", 401, "MMDS token not valid.");
	assert_int_equal(metrics.mmds_rx_invalid_token, invalid + 2);
	snprintf(request, sizeof(request), "GET /key HTTP/1.1\r\nx-METADATA-token: \t%s \t\r\n\r\n", token);
	expect_answer(request, 200, "value");
	clock_ns += 60000 * MS;
	expect_answer(request, 401, "MMDS token not valid.");
	assert_int_equal(metrics.mmds_rx_no_token, none + 1);
}

static void v1_only_counts(void **state)
{
	const uint64_t none = metrics.mmds_rx_no_token, invalid = metrics.mmds_rx_invalid_token;
	char token[MMDS_TOKEN_LEN + 1], request[256];

	(void)state;
	mmds->version = MMDS_V1;
	new_token(token, 60);
	expect_answer(GET_KEY, 200, "value");
	expect_answer("GET /key HTTP/1.1\r\nX-aws-ec2-metadata-token: x\r\n\r\n", 200, "value");
	snprintf(request, sizeof(request), "GET /key HTTP/1.1\r\nX-aws-ec2-metadata-token: %s\r\n\r\n", token);
	expect_answer(request, 200, "value");
	assert_int_equal(metrics.mmds_rx_no_token, none + 1);
	assert_int_equal(metrics.mmds_rx_invalid_token, invalid + 1);
}

static void accept_selects_the_format(void **state)
{
	static const struct {
		const char *line;
		bool json;
	} cases[] = {
		{ "", false },
		{ "Accept:\r\n", false },
		{ "Accept: */*\r\n", false },
		{ "Accept: text/plain\r\n", false },
		{ "accept:application/json  \r\n", true },
		{ "ACCEPT: application/json\r\nAccept: text/plain\r\n", false },
		{ "Accept: application/jso\r\n", false },
		{ "Accept: application/\r\n json\r\n", false },
	};
	char request[256];

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		snprintf(request, sizeof(request), "GET http://169.254.169.254/ HTTP/1.1\r\n%s\r\n", cases[i].line);
		mmds->imds_compat = false;
		expect_answer(request, 200, cases[i].json ? "{\"key\":\"value\",\"list\":[1]}" : "key\nlist");
		assert_int_equal(strstr(answer, "Content-Type: application/json\r\n") != NULL, cases[i].json);
		mmds->imds_compat = true;
		expect_answer(request, 200, "key\nlist");
		assert_non_null(strstr(answer, "Content-Type: text/plain\r\n"));
	}
	expect_answer("GET /list HTTP/1.1\r\n\r\n", 501, "Cannot retrieve value. The value has an unsupported type.");
	expect_answer("GET //no//such HTTP/1.1\r\n\r\n", 404, "Resource not found: //no//such.");
}

static void connection_stays_open_unless(void **state)
{
	static const struct {
		const char *request;
		bool closed;
	} cases[] = {
		{ GET_KEY, false },
		{ "GET /key HTTP/1.1\r\nConnection: close\r\n\r\n", true },
		{ "GET /key HTTP/1.0\r\n\r\n", true },
		{ "GET /key HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", false },
		{ "GET /key HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", false },
		{ "PUT /key HTTP/1.1\r\nContent-Length: 0\r\n\r\n", false },
		{ "PUT /key HTTP/1.1\r\nContent-Length: 3\r\n\r\n", true },
		{ "?", true },
		{ "HEAD /key HTTP/1.1\r\n\r\n", false },
	};
	bool closed;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		mmds_http_init(&http);
		assert_int_equal(feed(cases[i].request, strlen(cases[i].request), 4000, &closed), 1);
		assert_int_equal(closed, cases[i].closed);
		assert_non_null(
			strstr(answer, closed ? "\r\nConnection: close\r\n" : "\r\nConnection: keep-alive\r\n"));
	}
	/* The last one was HEAD: nothing after the headers. */
	assert_string_equal(strstr(answer, "\r\n\r\n"), "\r\n\r\n");
}

static void pieces_of_any_size(void **state)
{
	static const char requests[] = "GET /no HTTP/1.1\r\nHost: x\r\nAccept: application/json\r\n\r\n"
				       "\r\nPUT /latest/api/token HTTP/1.1\r\nX-metadata-token-ttl-seconds: 9\r\n\r\n"
				       "GET /key HTTP/1.1\r\nHost: x\r\nAccept: application/json\r\n\r\n";
	bool closed;

	(void)state;
	for (size_t piece = 1; piece < sizeof(requests); piece++) {
		mmds_http_init(&http);
		assert_int_equal(feed(requests, sizeof(requests) - 1, piece, &closed), 3);
		assert_non_null(strstr(answer, "\r\n\r\n\"value\""));
		assert_false(closed);
	}
}

static void requests_that_do_not_fit(void **state)
{
	char request[MMDS_REQUEST_MAX + 100];
	bool closed;

	(void)state;
	/* Exactly as much as fits. */
	memset(request, 'x', sizeof(request));
	memcpy(request, "GET /key HTTP/1.1\r\nX: ", 22);
	memcpy(request + MMDS_REQUEST_MAX - 4, "\r\n\r\n", 4);
	mmds_http_init(&http);
	assert_int_equal(feed(request, MMDS_REQUEST_MAX, 1000, &closed), 1);
	assert_non_null(strstr(answer, "\r\n\r\nvalue"));
	assert_false(closed);
	/* One byte more. */
	memset(request + MMDS_REQUEST_MAX - 4, 'x', 4);
	memcpy(request + MMDS_REQUEST_MAX - 3, "\r\n\r\n", 4);
	mmds_http_init(&http);
	assert_int_equal(feed(request, MMDS_REQUEST_MAX + 1, 1000, &closed), 1);
	assert_non_null(strstr(answer, " 431 Request Header Fields Too Large\r\n"));
	assert_true(closed);
	/* A path as long as it can be comes back in the answer. */
	memset(request, 'y', sizeof(request));
	memcpy(request, "GET /", 5);
	memcpy(request + MMDS_REQUEST_MAX - 13, " HTTP/1.1\r\n\r\n", 13);
	mmds_http_init(&http);
	assert_int_equal(feed(request, MMDS_REQUEST_MAX, 4000, &closed), 1);
	assert_memory_equal(answer, "HTTP/1.1 404 ", 13);
}

static uint64_t seed = 88172645463325252u;

static uint64_t next_random(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

/* Valid requests with bytes changed: every answer is a whole one, and nothing is read or written where it should not.
 */
static void mutated_requests(void **state)
{
	static const char request[] = "GET http://169.254.169.254/latest/~1a HTTP/1.1\r\nAccept: application/json\r\n"
				      "X-metadata-token: 00112233\r\nX-aws-ec2-metadata-token-ttl-seconds: 17\r\n"
				      "Content-Length: 0\r\nConnection: keep-alive\r\n\r\n";
	char mutated[2 * sizeof(request)];
	unsigned int answers = 0;
	bool closed;

	(void)state;
	for (int i = 0; i < 100000; i++) {
		size_t len = sizeof(request) - 1;

		memcpy(mutated, request, len);
		memcpy(mutated + len, request, len);
		if (next_random() % 2)
			memcpy(mutated, "PUT", 3);
		for (uint64_t n = next_random() % 5; n; n--)
			mutated[next_random() % len] = (char)next_random();
		mmds_http_init(&http);
		len = next_random() % 2 ? len : 2 * len;
		if (feed(mutated, len, 1 + next_random() % 400, &closed)) {
			answers++;
			assert_memory_equal(answer, "HTTP/1.", 7);
			assert_non_null(strstr(answer, "\r\n\r\n"));
		}
	}
	assert_true(answers > 50000);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(errors_are_firecrackers, start, end),
		cmocka_unit_test_setup_teardown(v2_wants_a_token, start, end),
		cmocka_unit_test_setup_teardown(v1_only_counts, start, end),
		cmocka_unit_test_setup_teardown(accept_selects_the_format, start, end),
		cmocka_unit_test_setup_teardown(connection_stays_open_unless, start, end),
		cmocka_unit_test_setup_teardown(pieces_of_any_size, start, end),
		cmocka_unit_test_setup_teardown(requests_that_do_not_fit, start, end),
		cmocka_unit_test_setup_teardown(mutated_requests, start, end),
	};

	return cmocka_run_group_tests_name("mmds_http", tests, NULL, NULL);
}
