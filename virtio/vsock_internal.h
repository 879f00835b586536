/* vsock_internal.h: what the files of the vsock device share: the device, its connections, and who may call what. */
#ifndef MAYFLY_VIRTIO_VSOCK_INTERNAL_H
#define MAYFLY_VIRTIO_VSOCK_INTERNAL_H

#include <endian.h>
#include <linux/virtio_vsock.h>

#include "unix_socket.h"
#include "vsock.h"

#define VSOCK_MAX_CONNS  1024u
#define VSOCK_HASH_SIZE  1024u       /* a power of two */
#define VSOCK_BUF_SIZE   (64u << 10) /* what a connection keeps of the guest's bytes, and its credit */
#define VSOCK_MAX_RESETS 64u         /* answers to packets of nobody; with more, the TX queue waits */
#define VSOCK_BATCH      16u         /* RX chains filled by one read */
#define VSOCK_LINE_SIZE  32u         /* "CONNECT 4294967295 4294967295\n" and a little */
#define VSOCK_ANNOUNCED  32u

/* Work of a queue before other users of the event loop get their turn: one for each packet, and one for so many bytes.
 */
#define VSOCK_TURN       256u
#define VSOCK_WORK_BYTES (VIRTIO_TURN_BYTES / VSOCK_TURN)

/* How long the guest may take to answer a request, or to finish after both directions were shut down. */
#define VSOCK_PATIENCE_NS (8000 * 1000000ull)
/*
 * How long a driver that was told of a transport reset may take to give the buffer of the event back: a Linux guest
 * with much to do on a slow host takes longer than 100 ms. Only a driver that never does so makes anybody wait that
 * long.
 */
#define VSOCK_HOLD_NS        (2000 * 1000000ull)
#define VSOCK_RETRY_FIRST_NS (1 * 1000000ull)
#define VSOCK_RETRY_LAST_NS  (50 * 1000000ull)

#define VSOCK_QUEUE_RX    0u
#define VSOCK_QUEUE_TX    1u
#define VSOCK_QUEUE_EVENT 2u
#define VSOCK_NR_QUEUES   3u

#define VSOCK_SHUTDOWN_BOTH (VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND)

enum vsock_conn_state {
	CONN_FREE,
	CONN_GREETING,   /* somebody connected to uds_path and has not yet written a whole CONNECT line; no ports */
	CONN_REQUESTED,  /* the guest is to be asked, or was asked and has not answered */
	CONN_CONNECTING, /* the guest asks; the host's listener has a full backlog and is tried again */
	CONN_OPEN,
	CONN_FLUSHING, /* over for the guest; what it sent last is still to be written. In the table until it was told
			*/
	CONN_DEAD,     /* over for the host; the guest is still to be told by RST */
};

/* Packets that a connection owes to the guest, in the order in which they go out. Data comes between. */
enum vsock_due {
	DUE_RST = 1 << 0,
	DUE_RESPONSE = 1 << 1,
	DUE_REQUEST = 1 << 2,
	DUE_CREDIT_REQUEST = 1 << 3,
	DUE_CREDIT_UPDATE = 1 << 4,
};

struct vsock_conn {
	struct vsock *vsock;
	struct event_fd event; /* the Unix socket, edge-triggered; fd -1: none */
	enum vsock_conn_state state;
	uint32_t host_port, guest_port;
	struct vsock_conn *next_hash;  /* of those in the table; of the free ones when free */
	struct vsock_conn *next_ready; /* valid while on_ready_list, which may outlive the connection */
	bool on_ready_list;
	uint8_t due; /* DUE_* */

	bool readable;      /* the socket may have bytes, or its end, to read */
	bool write_watched; /* EPOLLOUT is asked for */
	bool eof;           /* the host's peer will send no more, and all it sent was read */
	bool gone;          /* the host's peer takes no more */
	bool asked;         /* a REQUEST went out */
	bool waits;         /* CONNECT came with a timeout */
	uint8_t guest_shut; /* VIRTIO_VSOCK_SHUTDOWN_* that the guest has said */
	uint8_t host_shut;  /* … that the host's peer has come to */
	uint8_t told_shut;  /* … that the guest was told */

	/* Credit (5.10.6.3); counters of bytes that wrap. */
	uint32_t fwd_cnt, told_fwd_cnt;    /* what left our buffer, and what of that the guest knows */
	uint32_t sent;                     /* to the guest */
	uint32_t guest_alloc, guest_fwd;   /* the guest's buffer, and what has left it */
	bool credit_asked;                 /* since there was credit last */
	uint8_t *buf;                      /* ring of VSOCK_BUF_SIZE bytes, mapped while there is something in it */
	uint32_t buf_start, buf_len;       /* guest's bytes that the socket did not take at once */
	uint64_t deadline_ns;              /* after which the connection is given up; 0: none */
	uint64_t retry_ns, retry_delay_ns; /* when to ask or connect again; 0: not planned */

	char line[VSOCK_LINE_SIZE];
	unsigned int line_len;
};

/* An RST for ports without a connection. */
struct vsock_reset {
	uint32_t host_port, guest_port;
	uint16_t type;
};

/* A packet of the guest: its header as read once, and its payload in the chain. */
struct vsock_packet {
	struct virtio_vsock_hdr hdr; /* in the host's byte order */
	const struct iovec *iov;     /* the whole chain, with the header */
	unsigned int nr_iov;
	uint64_t payload_len; /* what the chain holds, whatever the header says */
};

/* In pages of its own that cost nothing until used: an idle device touches two or three of a hundred. */
struct vsock {
	struct virtio_device dev; /* first: ops get this and cast */
	char id[CONFIG_ID_LEN];
	char uds_path[sizeof(((struct vsock_config *)0)->uds_path)];
	uint64_t guest_cid;

	struct unix_listener listener;
	uint32_t last_host_port;

	unsigned int nr_fresh;   /* slots of conn[] that were ever used */
	struct vsock_conn *free; /* last freed first */
	struct vsock_conn *hash[VSOCK_HASH_SIZE];
	struct vsock_conn *ready, **ready_tail; /* those that may have something for the guest, in turn */

	struct vsock_reset reset[VSOCK_MAX_RESETS]; /* ring */
	unsigned int reset_start, nr_resets;

	struct event_timer timer; /* the first deadline or retry of any connection */
	struct event_timer turn;  /* the rest of the work, after others had their turn */
	bool tx_pending;          /* the TX queue may hold packets */
	bool event_pending;       /* the driver is still to be told of a transport reset */
	bool held;                /* it was told and may not know yet: it gets no packets until it does */
	struct event_timer hold;  /* … or until this expires */
	bool pushed[VSOCK_NR_QUEUES];
	bool paused;
	uint64_t paused_ns;

	void (*listening_cb)(void *opaque, uint32_t port);
	void *listening_opaque;
	uint32_t announced[VSOCK_ANNOUNCED]; /* ports reported, ring */
	unsigned int nr_announced;

	struct iovec iov[2 * VIRTQUEUE_MAX_SIZE]; /* chains being served */
	struct iovec slice[2 * VIRTQUEUE_MAX_SIZE];

	struct vsock_conn conn[VSOCK_MAX_CONNS];
};

/* ---- vsock.c: the device ---- */

/* vsock_run - serve the rings as far as a turn goes. Callers are events: nobody deeper down calls it. */
void vsock_run(struct vsock *v);
/* vsock_broken - the driver broke the rules of this queue. */
void vsock_broken(struct vsock *v, unsigned int queue, const char *why);

/* ---- vsock_rx.c: packets to the guest ---- */

/* vsock_run_rx - hand out what connections have, in turn. True when the turn ended before the work did. */
bool vsock_run_rx(struct vsock *v);
/* vsock_send_event - tell the driver of a transport reset if that is due and it has a buffer. vsock_release - it knows.
 */
void vsock_send_event(struct vsock *v);
void vsock_release(struct vsock *v);
/* vsock_queue_reset - answer a packet with RST; the caller has seen that nr_resets < VSOCK_MAX_RESETS. */
void vsock_queue_reset(struct vsock *v, const struct virtio_vsock_hdr *hdr);

/* ---- vsock_table.c: all connections ---- */

/* vsock_conn_alloc - a new connection over fd in that state, not in the table; NULL (and fd is the caller's) when there
 * is no room. */
struct vsock_conn *vsock_conn_alloc(struct vsock *v, int fd, enum vsock_conn_state state);
/* vsock_conn_free - close it and forget it; what it had for either side is lost. */
void vsock_conn_free(struct vsock_conn *conn);
void vsock_conn_close_socket(struct vsock_conn *conn);
/* vsock_table_add, _remove, _find - by its two ports. */
void vsock_table_add(struct vsock_conn *conn);
void vsock_table_remove(struct vsock_conn *conn);
struct vsock_conn *vsock_table_find(const struct vsock *v, uint32_t host_port, uint32_t guest_port);
/*
 * vsock_ready_add - give it a turn if it has something for the guest; vsock_ready_first - whose turn it is, or NULL
 * vsock_ready_served - the first had its turn; if it has more, it is the last now.
 */
void vsock_ready_add(struct vsock_conn *conn);
struct vsock_conn *vsock_ready_first(struct vsock *v);
void vsock_ready_served(struct vsock *v);
/* vsock_plan - look at deadlines at that time (ns, CLOCK_MONOTONIC) at the latest. */
void vsock_plan(struct vsock *v, uint64_t when_ns);
/* vsock_timer_expired - serve deadlines and retries that are due; vsock_shift_deadlines - time stood still for ns. */
void vsock_timer_expired(struct event_timer *timer);
void vsock_shift_deadlines(struct vsock *v, uint64_t ns);
/* vsock_drop_all - the guest knows no connection any more. Those that it was never asked for stay. */
void vsock_drop_all(struct vsock *v);

/* ---- vsock_conn.c: one connection ---- */

/* vsock_conn_packet - a packet of the guest for it. */
void vsock_conn_packet(struct vsock_conn *conn, const struct vsock_packet *p);
/* vsock_conn_event - its socket has news (struct event_fd's ready). */
void vsock_conn_event(struct event_fd *ev, uint32_t events);
/* vsock_conn_opened - both sides agreed. */
void vsock_conn_opened(struct vsock_conn *conn);
/* vsock_conn_kill - end it at once: close the socket, RST to the guest if it knows the connection. */
void vsock_conn_kill(struct vsock_conn *conn);
/* vsock_conn_end - over for the guest, who gets an RST if tell; bytes it sent still reach the host. */
void vsock_conn_end(struct vsock_conn *conn, bool tell);
/* vsock_conn_forget - the guest knows of its end (dead or flushing connections only). */
void vsock_conn_forget(struct vsock_conn *conn);
/* vsock_conn_ready - has it a packet for the guest now? */
bool vsock_conn_ready(const struct vsock_conn *conn);
/* vsock_conn_may_read - how many bytes of the host's peer the guest would take now; 0: nothing to be read. */
uint32_t vsock_conn_may_read(const struct vsock_conn *conn);
/* vsock_conn_header - fill in the header of a data packet of len bytes; the guest counts as told of our credit. */
void vsock_conn_header(struct vsock_conn *conn, struct virtio_vsock_hdr *hdr, uint32_t len);
/* vsock_conn_control - fill in the header of the next packet without data, which counts as sent; false: none is due. */
bool vsock_conn_control(struct vsock_conn *conn, struct virtio_vsock_hdr *hdr);
/* vsock_conn_read_done - the socket gave n bytes for the guest (0: its end, < 0: -errno). */
void vsock_conn_read_done(struct vsock_conn *conn, ssize_t n);
/* vsock_conn_flush - write what is buffered, as far as the socket takes it. */
void vsock_conn_flush(struct vsock_conn *conn);

/* ---- vsock_host.c: Unix sockets ---- */

int vsock_listen(struct vsock *v, struct error *err);
/* vsock_host_port_plausible - may it be the last one that was given to a connection? */
bool vsock_host_port_plausible(uint32_t port);
/* vsock_greet - read the CONNECT line, as far as it has come. */
void vsock_greet(struct vsock_conn *conn);
/* vsock_request - the guest wants to connect to a port of the host. */
void vsock_request(struct vsock *v, const struct vsock_packet *p);
/* vsock_retry - the time has come to ask the guest, or to connect, again. */
void vsock_retry(struct vsock_conn *conn);
/* vsock_plan_retry - once more after a delay that doubles each time. */
void vsock_plan_retry(struct vsock_conn *conn);

#endif
