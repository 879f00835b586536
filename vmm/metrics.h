/* metrics.h: counters of the one microVM, written as one JSON line on request and at the end. */
#ifndef MAYFLY_METRICS_H
#define MAYFLY_METRICS_H

#include <stdatomic.h>
#include <stdint.h>

#include "error.h"

/*
 * Group, name. Names are Firecracker's where it has the counter. One list, so that a counter is written down once.
 * Counters are process-wide and relaxed atomics: any thread may add.
 */
#define METRICS_LIST(X)                         \
	X(block, activate_fails)                \
	X(block, cfg_fails)                     \
	X(block, event_fails)                   \
	X(block, execute_fails)                 \
	X(block, invalid_reqs_count)            \
	X(block, flush_count)                   \
	X(block, discard_count)                 \
	X(block, write_zeroes_count)            \
	X(block, queue_event_count)             \
	X(block, rate_limiter_throttled_events) \
	X(block, read_bytes)                    \
	X(block, write_bytes)                   \
	X(block, read_count)                    \
	X(block, write_count)                   \
	X(block, io_errors)                     \
	X(virtio, device_broken)                \
	X(virtio, bad_access)                   \
	X(virtio, ioeventfd_switched)           \
	X(i8042, reset_count)                   \
	X(i8042, read_count)                    \
	X(i8042, write_count)                   \
	X(uart, read_count)                     \
	X(uart, write_count)                    \
	X(uart, flush_count)                    \
	X(uart, missed_write_count)             \
	X(vcpu, exit_io_in)                     \
	X(vcpu, exit_io_out)                    \
	X(vcpu, exit_mmio_read)                 \
	X(vcpu, exit_mmio_write)                \
	X(vcpu, failures)                       \
	X(logger, missed_log_count)             \
	X(logger, missed_metrics_count)         \
	X(logger, metrics_fails)                \
	X(vmm, panic_count)

struct metrics {
#define METRICS_FIELD(group, name) _Atomic uint64_t group##_##name;
	METRICS_LIST(METRICS_FIELD)
#undef METRICS_FIELD
};

extern struct metrics metrics;

#define metrics_add(counter, n) atomic_fetch_add_explicit(&metrics.counter, (uint64_t)(n), memory_order_relaxed)
#define metrics_inc(counter)    metrics_add(counter, 1)

/*
 * metrics_open - where metrics_flush writes; made if missing, O_NONBLOCK (a FIFO needs no reader)
 * 0 or -errno with a sentence. path empty or NULL: nowhere, and no system call is made. May be called again. vmm
 * thread.
 */
int metrics_open(const char *path, struct error *err);

/*
 * metrics_set_labels - what every line carries besides the counters, as Firecracker's emit_id and properties
 * id: the instance id for a top-level "id", or NULL. properties: a valid JSON object as text without newlines, at most
 * METRICS_PROPERTIES_MAX bytes, or NULL. Both must outlive the last metrics_flush. vmm thread.
 */
#define METRICS_PROPERTIES_MAX 1024
void metrics_set_labels(const char *id, const char *properties);

/*
 * metrics_flush - append one JSON object on one line: {"utc_timestamp_ms":…,"block":{…},…}, in one write(2)
 * Every counter is what was added since the last line that got through, as in Firecracker. 0 (also when metrics_open
 * was given no path) or -errno, and then nothing is lost: the next line has it all. vmm thread.
 */
int metrics_flush(void);

#endif
