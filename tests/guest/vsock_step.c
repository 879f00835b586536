/* vsock_step.c: the verbs of "vsock VERB …": servers, clients and attacks. */
#include "io.h"
#include "vsock.h"

#define PATIENCE_MS 60000
#define ATTACK_MS   400
#define BOTH        (VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND)

static uint64_t after(uint64_t ms)
{
	return ticks() + ms * TICKS_PER_MS;
}

/* Poll; false (and a message) when the device broke or time is over. */
static bool go_on(struct vsock *v, uint64_t end)
{
	if (!vsock_poll(v)) {
		say("vsock: the device needs a reset\n");
		return false;
	}
	if (ticks() > end) {
		say("vsock: nothing more happens: %u accepted, %u ended\n", v->accepted, v->ended);
		return false;
	}
	return true;
}

/* Send back what came; its end after the last of it. */
static void echo(struct vsock *v, struct vconn *c)
{
	const uint8_t *data;
	uint32_t n = vsock_peek(c, &data);

	if (c->reset) {
		vsock_release(v, c);
		return;
	}
	/* Nobody takes it any more. */
	if (c->host_shut & VIRTIO_VSOCK_SHUTDOWN_RCV)
		vsock_consume(v, c, n);
	else if (n)
		vsock_consume(v, c, vsock_write(v, c, data, n));
	if (c->host_shut & VIRTIO_VSOCK_SHUTDOWN_SEND && !c->len)
		vsock_shutdown(v, c, BOTH);
}

/* echo PORT [n=1]: until n connections have come and gone. */
static bool do_echo(struct vsock *v, struct step *s)
{
	uint64_t port, n = step_option(s, "n", 1), end = after(PATIENCE_MS);
	unsigned int i, ended = 0;

	if (!step_number(s, 2, &port))
		return false;
	v->listen_port = (uint32_t)port;
	v->ended = 0;
	say("vsock: listening on %u\n", v->listen_port);
	while (v->ended < n) {
		if (!go_on(v, end))
			return false;
		for (i = 0; i < VSOCK_CONNS; i++) {
			if (v->conn[i].used)
				echo(v, &v->conn[i]);
		}
		if (v->ended != ended)
			end = after(PATIENCE_MS);
		ended = v->ended;
	}
	v->listen_port = 0;
	return true;
}

/* refuse N: answer N requests with RST, and nothing else. */
static bool do_refuse(struct vsock *v, struct step *s)
{
	uint64_t n, end = after(PATIENCE_MS);

	if (!step_number(s, 2, &n))
		return false;
	v->refused = 0;
	while (v->refused < n) {
		if (!go_on(v, end))
			return false;
	}
	return true;
}

/* The byte at an offset of a stream of that seed, as the host computes it. */
static uint8_t stream_byte(uint64_t seed, uint64_t offset)
{
	return (uint8_t)(seed * 31 + offset * 7 + (offset >> 8) + (offset >> 16));
}

struct transfer {
	uint64_t seed, total, sent, got;
	bool echo; /* the host sends everything back */
};

static bool check_echo(struct vsock *v, struct vconn *c, struct transfer *t)
{
	const uint8_t *data;
	uint32_t i, n;

	while ((n = vsock_peek(c, &data))) {
		for (i = 0; i < n; i++) {
			if (data[i] != stream_byte(t->seed, t->got + i)) {
				say("vsock: wrong byte at %llu\n", (unsigned long long)(t->got + i));
				return false;
			}
		}
		t->got += n;
		vsock_consume(v, c, n);
	}
	return true;
}

static void send_some(struct vsock *v, struct vconn *c, struct transfer *t)
{
	static uint8_t buf[4096];
	uint64_t i, n = t->total - t->sent < sizeof(buf) ? t->total - t->sent : sizeof(buf);

	for (i = 0; i < n; i++)
		buf[i] = stream_byte(t->seed, t->sent + i);
	t->sent += vsock_write(v, c, buf, (uint32_t)n);
	if (t->sent == t->total)
		vsock_shutdown(v, c, VIRTIO_VSOCK_SHUTDOWN_SEND);
}

static bool run_transfer(struct vsock *v, struct vconn *c, struct transfer *t)
{
	uint64_t end = after(PATIENCE_MS), before;

	while (!c->reset) {
		before = t->sent + t->got;
		if (!go_on(v, end) || !check_echo(v, c, t))
			return false;
		if (c->open && !c->shut)
			send_some(v, c, t);
		if (c->host_shut & VIRTIO_VSOCK_SHUTDOWN_SEND && c->shut)
			vsock_shutdown(v, c, BOTH);
		if (t->sent + t->got != before)
			end = after(PATIENCE_MS);
	}
	return true;
}

/* client PORT bytes=N [seed=S] [echo=1] [refused=0]: send N bytes, half-close, take them back, close. */
static bool do_client(struct vsock *v, struct step *s)
{
	struct transfer t = { .seed = step_option(s, "seed", 0), .total = step_option(s, "bytes", 0) };
	static uint32_t guest_port = 1024;
	struct vconn *c;
	uint64_t port;
	bool ok, refused;

	t.echo = step_option(s, "echo", 1);
	if (!step_number(s, 2, &port))
		return false;
	c = vsock_connect(v, (uint32_t)port, guest_port++);
	if (!c)
		return false;
	ok = run_transfer(v, c, &t);
	refused = !c->open;
	vsock_release(v, c);
	if (refused != (step_option(s, "refused", 0) != 0)) {
		say("vsock: %s\n", refused ? "refused" : "not refused");
		return false;
	}
	say("vsock: sent %llu, got %llu\n", (unsigned long long)t.sent, (unsigned long long)t.got);
	return ok && (refused || (t.sent == t.total && t.got == (t.echo ? t.total : 0)));
}

static bool do_open(struct vsock *v, struct step *s)
{
	return vsock_open(v, (uint32_t)step_option(s, "rx", VSOCK_RX_SIZE));
}

static bool do_info(struct vsock *v, struct step *s)
{
	(void)s;
	say("vsock: cid %llu, offered 0x%llx\n", (unsigned long long)v->cid, (unsigned long long)v->dev.offered);
	return true;
}

/* ---- attacks ---- */

enum outcome { RST, IGNORED, NEEDS_RESET };

static const char *const outcome_names[] = { "rst", "ignored", "needs_reset" };

struct attack {
	const char *name;
	enum outcome expected;
	uint16_t op, type;
	uint64_t src_cid_off, dst_cid; /* added to our CID; 0: the host's */
	uint32_t len, bytes;           /* said and in the chain */
	uint32_t chain_len;            /* of the only descriptor; 0: as long as it should be */
	bool in;                       /* it is device-writable */
};

#define STREAM VIRTIO_VSOCK_TYPE_STREAM

static const struct attack attacks[] = {
	{ .name = "data-of-nobody", .expected = RST, .op = VIRTIO_VSOCK_OP_RW, .type = STREAM, .len = 64, .bytes = 64 },
	{ .name = "data-longer-than-chain", .expected = RST, .op = VIRTIO_VSOCK_OP_RW, .type = STREAM, .len = ~0u },
	{ .name = "response-of-nobody", .expected = RST, .op = VIRTIO_VSOCK_OP_RESPONSE, .type = STREAM },
	{ .name = "op-invalid", .expected = RST, .op = VIRTIO_VSOCK_OP_INVALID, .type = STREAM },
	{ .name = "op-unknown", .expected = RST, .op = 0xffff, .type = STREAM },
	{ .name = "request-seqpacket", .expected = RST, .op = VIRTIO_VSOCK_OP_REQUEST, .type = 2 },
	{ .name = "type-unknown", .expected = RST, .op = VIRTIO_VSOCK_OP_RW, .type = 0xffff },
	{ .name = "rst-of-nobody", .expected = IGNORED, .op = VIRTIO_VSOCK_OP_RST, .type = STREAM },
	{ .name = "cid-forged", .expected = IGNORED, .op = VIRTIO_VSOCK_OP_RW, .type = STREAM, .src_cid_off = 1 },
	{ .name = "cid-of-nobody", .expected = IGNORED, .op = VIRTIO_VSOCK_OP_RW, .type = STREAM, .dst_cid = 1 },
	{ .name = "header-short", .expected = NEEDS_RESET, .type = STREAM, .chain_len = 43 },
	{ .name = "header-of-one-byte", .expected = NEEDS_RESET, .type = STREAM, .chain_len = 1 },
	{ .name = "packet-writable", .expected = NEEDS_RESET, .type = STREAM, .in = true },
};

static enum outcome attack_outcome(struct vsock *v)
{
	uint64_t end = after(ATTACK_MS);

	v->resets = 0;
	while (ticks() < end) {
		if (!vsock_poll(v) || vdev_status(&v->dev) & VIRTIO_CONFIG_S_NEEDS_RESET)
			return NEEDS_RESET;
		if (v->resets)
			return RST;
	}
	return IGNORED;
}

static bool run_attack(struct vsock *v, const struct attack *a)
{
	struct vconn nobody = { .host_port = 77, .guest_port = 88 };
	struct virtio_vsock_hdr hdr;
	struct segment seg = { .addr = (uint64_t)v->tx_buf, .in = a->in };
	enum outcome o;

	if (!vsock_open(v, VSOCK_RX_SIZE))
		return false;
	hdr = vsock_header(v, &nobody, a->op, a->len);
	hdr.type = a->type;
	hdr.src_cid += a->src_cid_off;
	hdr.dst_cid = a->dst_cid ? a->dst_cid : HOST_CID;
	memcpy(v->tx_buf, &hdr, sizeof(hdr));
	v->nr_tx_free--;
	seg.len = a->chain_len ? a->chain_len : (uint32_t)sizeof(hdr) + a->bytes;
	v->tx_slot[virtq_add(&v->tx, &seg, 1, NULL)] = VSOCK_TX_SLOTS - 1;
	virtq_kick(&v->tx);
	o = attack_outcome(v);
	say("hostile %s: %s (%sexpected %s)\n", a->name, outcome_names[o], o == a->expected ? "" : "BUT ",
	    outcome_names[a->expected]);
	return o == a->expected && (o != RST || v->last_type == a->type);
}

/* A receive buffer that holds no packet: noticed as soon as there is one. */
static bool attack_rx(struct vsock *v, uint32_t len)
{
	struct vconn nobody = { .host_port = 77, .guest_port = 88 };
	struct virtio_vsock_hdr hdr;
	enum outcome o;

	if (!vsock_open(v, len))
		return false;
	hdr = vsock_header(v, &nobody, VIRTIO_VSOCK_OP_RW, 0);
	vsock_send(v, &hdr, NULL, 0);
	o = attack_outcome(v);
	say("hostile receive-buffer of %u: %s\n", len, outcome_names[o]);
	return o == NEEDS_RESET;
}

/* hostile: everything above; the device must be there again after each. */
static bool do_hostile(struct vsock *v, struct step *s)
{
	bool ok = true;
	unsigned int i;

	(void)s;
	for (i = 0; i < sizeof(attacks) / sizeof(attacks[0]); i++)
		ok = run_attack(v, &attacks[i]) && ok;
	ok = attack_rx(v, 1) && attack_rx(v, sizeof(struct virtio_vsock_hdr)) && ok;
	return vsock_open(v, VSOCK_RX_SIZE) && ok;
}

static const struct {
	const char *name;
	bool (*run)(struct vsock *v, struct step *s);
} verbs[] = {
	{ "open", do_open },     { "info", do_info },       { "echo", do_echo },      { "refuse", do_refuse },
	{ "client", do_client }, { "hostile", do_hostile }, { "bench", vsock_bench },
};

bool vsock_step(struct step *s)
{
	struct vsock *v = vsock_get(s->g);
	unsigned int i;

	if (!v || s->nr < 2)
		return false;
	for (i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++) {
		if (!equal(s->word[1], verbs[i].name))
			continue;
		if (!v->open && verbs[i].run != do_open && !vsock_open(v, VSOCK_RX_SIZE))
			return false;
		return verbs[i].run(v, s);
	}
	say("no such verb: \"%s\"\n", s->word[1]);
	return false;
}
