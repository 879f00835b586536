/* metrics.h: counters of the one microVM, written as one JSON line on request and at the end. */
#ifndef MAYFLY_METRICS_H
#define MAYFLY_METRICS_H

#include <stdatomic.h>
#include <stdint.h>

#include "error.h"

/*
 * LEVELS are values that were last set, the LIST is of counters. Group, name; a group's are together. Names are
 * Firecracker's where it has the counter. One list, so that a counter is written down once. Counters are process-wide
 * and relaxed atomics: any thread may add.
 */
#define METRICS_LEVELS(X)                      \
	X(latencies_us, diff_create_snapshot)  \
	X(latencies_us, full_create_snapshot)  \
	X(latencies_us, load_snapshot)         \
	X(latencies_us, pause_vm)              \
	X(latencies_us, resume_vm)             \
	X(api_server, process_startup_time_us) \
	X(api_server, process_startup_time_cpu_us)
#define METRICS_LIST(X)                          \
	X(api_server, bad_requests)              \
	X(get_api_requests, instance_info_count) \
	X(get_api_requests, machine_cfg_count)   \
	X(get_api_requests, mmds_count)          \
	X(get_api_requests, vmm_version_count)   \
	X(get_api_requests, other_count)         \
	X(put_api_requests, actions_count)       \
	X(put_api_requests, actions_fails)       \
	X(put_api_requests, boot_source_count)   \
	X(put_api_requests, boot_source_fails)   \
	X(put_api_requests, cpu_cfg_count)       \
	X(put_api_requests, cpu_cfg_fails)       \
	X(put_api_requests, drive_count)         \
	X(put_api_requests, drive_fails)         \
	X(put_api_requests, fork_count)          \
	X(put_api_requests, fork_fails)          \
	X(put_api_requests, logger_count)        \
	X(put_api_requests, logger_fails)        \
	X(put_api_requests, machine_cfg_count)   \
	X(put_api_requests, machine_cfg_fails)   \
	X(put_api_requests, metrics_count)       \
	X(put_api_requests, metrics_fails)       \
	X(put_api_requests, mmds_count)          \
	X(put_api_requests, mmds_fails)          \
	X(put_api_requests, network_count)       \
	X(put_api_requests, network_fails)       \
	X(put_api_requests, serial_count)        \
	X(put_api_requests, serial_fails)        \
	X(put_api_requests, snapshot_count)      \
	X(put_api_requests, snapshot_fails)      \
	X(put_api_requests, vsock_count)         \
	X(put_api_requests, vsock_fails)         \
	X(patch_api_requests, drive_count)       \
	X(patch_api_requests, drive_fails)       \
	X(patch_api_requests, machine_cfg_count) \
	X(patch_api_requests, machine_cfg_fails) \
	X(patch_api_requests, mmds_count)        \
	X(patch_api_requests, mmds_fails)        \
	X(patch_api_requests, network_count)     \
	X(patch_api_requests, network_fails)     \
	X(patch_api_requests, vm_count)          \
	X(patch_api_requests, vm_fails)          \
	X(delete_api_requests, count)            \
	X(delete_api_requests, fails)            \
	X(block, activate_fails)                 \
	X(block, cfg_fails)                      \
	X(block, event_fails)                    \
	X(block, execute_fails)                  \
	X(block, invalid_reqs_count)             \
	X(block, flush_count)                    \
	X(block, discard_count)                  \
	X(block, write_zeroes_count)             \
	X(block, queue_event_count)              \
	X(block, rate_limiter_throttled_events)  \
	X(block, read_bytes)                     \
	X(block, write_bytes)                    \
	X(block, read_count)                     \
	X(block, write_count)                    \
	X(block, io_errors)                      \
	X(virtio, device_broken)                 \
	X(virtio, bad_access)                    \
	X(virtio, ioeventfd_switched)            \
	X(mmds, rx_accepted)                     \
	X(mmds, rx_accepted_err)                 \
	X(mmds, rx_accepted_unusual)             \
	X(mmds, rx_bad_eth)                      \
	X(mmds, rx_invalid_token)                \
	X(mmds, rx_no_token)                     \
	X(mmds, rx_count)                        \
	X(mmds, tx_bytes)                        \
	X(mmds, tx_count)                        \
	X(mmds, tx_errors)                       \
	X(mmds, tx_frames)                       \
	X(mmds, connections_created)             \
	X(mmds, connections_destroyed)           \
	X(net, activate_fails)                   \
	X(net, event_fails)                      \
	X(net, no_rx_avail_buffer)               \
	X(net, no_tx_avail_buffer)               \
	X(net, rx_queue_event_count)             \
	X(net, rx_event_rate_limiter_count)      \
	X(net, rx_rate_limiter_throttled)        \
	X(net, rx_tap_event_count)               \
	X(net, rx_bytes_count)                   \
	X(net, rx_packets_count)                 \
	X(net, rx_fails)                         \
	X(net, rx_count)                         \
	X(net, tap_read_fails)                   \
	X(net, tap_write_fails)                  \
	X(net, tx_bytes_count)                   \
	X(net, tx_malformed_frames)              \
	X(net, tx_fails)                         \
	X(net, tx_count)                         \
	X(net, tx_packets_count)                 \
	X(net, tx_queue_event_count)             \
	X(net, tx_rate_limiter_event_count)      \
	X(net, tx_rate_limiter_throttled)        \
	X(net, tx_spoofed_mac_count)             \
	X(net, tx_remaining_reqs_count)          \
	X(net, egress_spoofed)                   \
	X(net, egress_link_local)                \
	X(net, egress_denied)                    \
	X(net, egress_unreadable)                \
	X(vsock, conns_added)                    \
	X(vsock, conns_killed)                   \
	X(vsock, conns_removed)                  \
	X(vsock, ev_queue_event_fails)           \
	X(vsock, muxer_event_fails)              \
	X(vsock, rx_bytes_count)                 \
	X(vsock, rx_packets_count)               \
	X(vsock, rx_queue_event_count)           \
	X(vsock, rx_queue_event_fails)           \
	X(vsock, rx_read_fails)                  \
	X(vsock, tx_bytes_count)                 \
	X(vsock, tx_flush_fails)                 \
	X(vsock, tx_packets_count)               \
	X(vsock, tx_queue_event_count)           \
	X(vsock, tx_queue_event_fails)           \
	X(vsock, tx_write_fails)                 \
	X(i8042, reset_count)                    \
	X(i8042, read_count)                     \
	X(i8042, write_count)                    \
	X(uart, read_count)                      \
	X(uart, write_count)                     \
	X(uart, flush_count)                     \
	X(uart, missed_write_count)              \
	X(vcpu, exit_io_in)                      \
	X(vcpu, exit_io_out)                     \
	X(vcpu, exit_mmio_read)                  \
	X(vcpu, exit_mmio_write)                 \
	X(vcpu, failures)                        \
	X(logger, missed_log_count)              \
	X(logger, missed_metrics_count)          \
	X(logger, metrics_fails)                 \
	X(vmm, panic_count)

struct metrics {
#define METRICS_FIELD(group, name) _Atomic uint64_t group##_##name;
	METRICS_LEVELS(METRICS_FIELD)
	METRICS_LIST(METRICS_FIELD)
#undef METRICS_FIELD
};

extern struct metrics metrics;

#define metrics_add(counter, n) atomic_fetch_add_explicit(&metrics.counter, (uint64_t)(n), memory_order_relaxed)
#define metrics_set(level, n)   atomic_store_explicit(&metrics.level, (uint64_t)(n), memory_order_relaxed)
#define metrics_inc(counter)    metrics_add(counter, 1)

/* metrics_prometheus - all counters since the start, as Prometheus' text format 0.0.4; the caller frees it. NULL
 * without memory. */
char *metrics_prometheus(void);

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
 * Every counter is what was added since the last line that got through, every level what it is, as in Firecracker. 0
 * (also when metrics_open was given no path) or -errno, and then nothing is lost: the next line has it all. vmm thread.
 */
int metrics_flush(void);

#endif
