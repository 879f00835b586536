/* machine.c: the life of one microVM: configured, running, paused, gone. */
#include "machine.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "board_state.h"
#include "log.h"
#include "metrics.h"
#include "syscall_filter.h"

#define METRICS_PERIOD_NS (60 * 1000000000ull)
#define IDLE_NS           1000000ull /* so that whoever waits for the first answer gets that first */

struct machine {
	struct event_loop loop;
	const struct config *cfg;
	struct jail *jail;
	struct timeline *timeline;
	struct host_cpuid *host_cpuid;
	struct event_fd signals;
	struct event_timer metrics_timer;
	struct event_timer idle_timer; /* nobody has asked for a microVM yet */
	enum machine_state state;
	machine_told *told;
	void *told_opaque;
	struct mmds *mmds; /* NULL until asked for */
	struct board board;
	_Atomic bool booted;
	struct event_work booted_work;
	unsigned int nr_started; /* vCPU threads to join */
	/* Threads that have no filter yet, and the word that a loaded microVM waits for: no vCPU runs before it is 0.
	 */
	_Atomic unsigned int nr_unconfined;
	bool never_ran;    /* loaded, and not resumed since */
	bool expects_load; /* from a stream */

	_Atomic unsigned int nr_parked; /* vCPUs that have left the guest to pause */
	struct event_work parked_work;
	unsigned int draining; /* drives that still have I/O in flight */
	struct machine_waiter *waiters;
	bool saving;                          /* a snapshot is being written */
	bool in_background;                   /* and the microVM may be resumed meanwhile */
	void (*give_up_saving)(void *opaque); /* NULL: there is nothing to remove */
	void *saving_opaque;
	bool has_saved_id;
	uint8_t saved_id[STATE_ID_SIZE];

	pthread_mutex_t lock; /* guards the end: the first reason counts */
	bool ended;
	struct machine_result result;
	struct event_work end_work;
};

static void tell_news(struct machine *m, const struct machine_news *news)
{
	if (m->told)
		m->told(m->told_opaque, news);
}

static void tell(struct machine *m, enum machine_event event)
{
	tell_news(m, &(struct machine_news){ .event = event });
}

/* ---- the end ---- */

static void on_end_work(struct event_work *work)
{
	struct machine *m = work->opaque;

	tell(m, MACHINE_ENDED);
	event_loop_stop(&m->loop);
}

/* Any thread. */
static void machine_end(struct machine *m, enum machine_end end, int signal)
{
	unsigned int i;

	/* The guest must not get a single instruction further than its reset. */
	for (i = 0; i < m->board.nr_vcpus; i++)
		atomic_store(&m->board.vcpu[i].stop, true);
	pthread_mutex_lock(&m->lock);
	if (!m->ended) {
		m->ended = true;
		m->result.end = end;
		m->result.signal = signal;
	}
	pthread_mutex_unlock(&m->lock);
	event_loop_post(&m->loop, &m->end_work);
}

static void on_vcpu_ended(struct vcpu *vcpu, enum vcpu_end end)
{
	struct machine *m = vcpu->opaque;
	bool said_status;

	pthread_mutex_lock(&m->lock);
	said_status = m->result.has_guest_status;
	pthread_mutex_unlock(&m->lock);
	switch (end) {
	case VCPU_KICKED:
		break;
	case VCPU_RESET:
		machine_end(m, MACHINE_GUEST_OFF, 0);
		break;
	case VCPU_SHUTDOWN:
		/* A triple fault is how some kernels reboot; one that has said its status before means it. */
		machine_end(m, said_status ? MACHINE_GUEST_OFF : MACHINE_GUEST_CRASH, 0);
		break;
	case VCPU_CRASHED:
		machine_end(m, MACHINE_GUEST_CRASH, 0);
		break;
	case VCPU_HOST_ERROR:
		machine_end(m, MACHINE_HOST_ERROR, 0);
		break;
	}
}

static void on_guest_reset(void *opaque)
{
	machine_end(opaque, MACHINE_GUEST_OFF, 0);
}

static void on_quit(void *opaque)
{
	machine_end(opaque, MACHINE_QUIT, 0);
}

static void on_signal(struct event_fd *ev, uint32_t events)
{
	struct signalfd_siginfo info;

	(void)events;
	if (read(ev->fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
		machine_end(ev->opaque, MACHINE_SIGNAL, (int)info.ssi_signo);
}

/* Firecracker writes metrics once a minute; so do we. */
static void on_metrics_timer(struct event_timer *timer)
{
	struct machine *m = timer->opaque;

	metrics_flush();
	event_loop_arm(&m->loop, timer, event_loop_now_ns() + METRICS_PERIOD_NS);
}

/* ---- what the guest reports ---- */

static void on_booted(void *opaque)
{
	struct machine *m = opaque;

	/* The first time counts, and a guest that goes on writing fills no log. */
	if (atomic_exchange(&m->booted, true))
		return;
	timeline_mark(m->timeline, STEP_USER_SPACE);
	event_loop_post(&m->loop, &m->booted_work);
}

static void on_booted_work(struct event_work *work)
{
	struct machine *m = work->opaque;

	if (m->timeline->wanted)
		timeline_log(m->timeline);
	tell(m, MACHINE_GUEST_READY);
}

static void on_guest_status(void *opaque, uint32_t status)
{
	struct machine *m = opaque;

	pthread_mutex_lock(&m->lock);
	m->result.has_guest_status = true;
	m->result.guest_status = status;
	pthread_mutex_unlock(&m->lock);
}

static void on_device_broken(void *opaque, const char *id)
{
	tell_news(opaque, &(struct machine_news){ .event = MACHINE_DEVICE_BROKEN, .device_id = id });
}

static void on_vsock_listens(void *opaque, uint32_t port)
{
	tell_news(opaque, &(struct machine_news){ .event = MACHINE_VSOCK_LISTENS, .port = port });
}

/* ---- who runs first ---- */

/* Whoever is the last to be confined opens the gate, so that nobody has to be woken only to wake others. */
static void count_confined(struct machine *m)
{
	unsigned int i;

	if (atomic_fetch_sub(&m->nr_unconfined, 1) != 1)
		return;
	for (i = 0; i < m->board.nr_vcpus; i++)
		vcpu_let_run(&m->board.vcpu[i]);
}

static void resume_vcpus(struct machine *m)
{
	unsigned int i;

	if (m->never_ran) {
		/* Loaded: they wait at the gate yet. */
		m->never_ran = false;
		count_confined(m);
		return;
	}
	for (i = 0; i < m->nr_started; i++)
		vcpu_resume(&m->board.vcpu[i]);
}

/* ---- pausing ---- */

static void finish_pause(struct machine *m)
{
	struct machine_waiter *waiter = m->waiters, *next;

	m->state = MACHINE_PAUSED;
	working_set_complete(m->board.working_set);
	/* Whoever is told may resume and ask for the next pause at once: that one is not over. */
	m->waiters = NULL;
	tell(m, MACHINE_HAS_PAUSED);
	for (; waiter; waiter = next) {
		next = waiter->next;
		waiter->done(waiter);
	}
}

static void on_drive_drained(void *opaque)
{
	struct machine *m = opaque;

	if (--m->draining == 0)
		finish_pause(m);
}

/* Every vCPU is out of the guest: nothing new comes in, and what is in flight is let finish. */
static void on_all_parked(struct machine *m)
{
	unsigned int i;

	for (i = 0; i < m->cfg->nr_nets; i++)
		net_pause(m->board.net[i]);
	if (m->board.vsock)
		vsock_pause(m->board.vsock);
	m->draining = 1; /* this function itself */
	for (i = 0; i < m->cfg->nr_drives; i++) {
		m->draining++;
		if (block_drain(m->board.drive[i], on_drive_drained, m))
			m->draining--;
	}
	on_drive_drained(m);
}

static void on_parked_work(struct event_work *work)
{
	struct machine *m = work->opaque;

	if (m->state == MACHINE_PAUSING && atomic_load(&m->nr_parked) == m->nr_started && !m->draining)
		on_all_parked(m);
}

static void on_vcpu_parked(struct vcpu *vcpu)
{
	struct machine *m = vcpu->opaque;

	atomic_fetch_add(&m->nr_parked, 1);
	event_loop_post(&m->loop, &m->parked_work);
}

void machine_pause(struct machine *m, struct machine_waiter *waiter)
{
	unsigned int i;

	if (m->state == MACHINE_PAUSED) {
		waiter->done(waiter);
		return;
	}
	waiter->next = m->waiters;
	m->waiters = waiter;
	if (m->state == MACHINE_PAUSING)
		return;
	m->state = MACHINE_PAUSING;
	atomic_store(&m->nr_parked, 0);
	for (i = 0; i < m->nr_started; i++)
		vcpu_pause(&m->board.vcpu[i]);
}

int machine_resume(struct machine *m, struct error *err)
{
	unsigned int i;

	if (m->state == MACHINE_RUNNING)
		return 0;
	if (m->state == MACHINE_PAUSING)
		return error_set(err, -EBUSY, "the microVM is being paused (wait for that answer first)");
	if (m->saving && !m->in_background)
		return error_set(err, -EBUSY, "a snapshot is being written (wait for that answer first)");
	for (i = 0; i < m->cfg->nr_drives; i++)
		block_resume(m->board.drive[i]);
	for (i = 0; i < m->cfg->nr_nets; i++)
		net_resume(m->board.net[i]);
	if (m->board.vsock)
		vsock_resume(m->board.vsock);
	m->state = MACHINE_RUNNING;
	resume_vcpus(m);
	tell(m, MACHINE_HAS_RESUMED);
	return 0;
}

/* ---- the beginning ---- */

/* One descriptor for all the ways a person or a supervisor ends us; SIGPIPE and SIGXFSZ become errors of the write. */
static int watch_signals(struct machine *m, struct error *err)
{
	sigset_t ending, blocked;
	int ret;

	sigemptyset(&ending);
	sigaddset(&ending, SIGINT);
	sigaddset(&ending, SIGTERM);
	sigaddset(&ending, SIGHUP);
	blocked = ending;
	sigaddset(&blocked, SIGPIPE);
	sigaddset(&blocked, SIGXFSZ);
	pthread_sigmask(SIG_BLOCK, &blocked, NULL);
	m->signals = (struct event_fd){ .ready = on_signal, .opaque = m };
	m->signals.fd = signalfd(-1, &ending, SFD_CLOEXEC | SFD_NONBLOCK);
	if (m->signals.fd < 0)
		return error_set(err, -errno, "signalfd: %s", strerror(errno));
	ret = event_loop_add(&m->loop, &m->signals, EPOLLIN);
	return ret ? error_set(err, ret, "event loop: signals: %s", strerror(-ret)) : 0;
}

/* The dearest part of a load, and it depends on nothing. Should it fail, the start fails again and says why. */
static void make_vm(struct machine *m)
{
	if (m->state == MACHINE_NOT_STARTED && m->board.kvm.vm_fd <= 0 && kvm_open(&m->board.kvm, NULL))
		kvm_close(&m->board.kvm);
}

static void on_idle_timer(struct event_timer *timer)
{
	make_vm(timer->opaque);
}

int machine_create(struct machine **out, const struct config *cfg, struct jail *jail, struct timeline *timeline,
		   struct host_cpuid *host_cpuid, struct error *err)
{
	struct machine *m = calloc(1, sizeof(*m));
	int ret;

	*out = m;
	if (!m)
		return error_set(err, -ENOMEM, "no memory for a microVM");
	m->cfg = cfg;
	m->jail = jail;
	m->timeline = timeline;
	m->host_cpuid = host_cpuid;
	pthread_mutex_init(&m->lock, NULL);
	m->end_work = (struct event_work){ .run = on_end_work, .opaque = m };
	m->parked_work = (struct event_work){ .run = on_parked_work, .opaque = m };
	m->booted_work = (struct event_work){ .run = on_booted_work, .opaque = m };
	m->metrics_timer = (struct event_timer){ .expired = on_metrics_timer, .opaque = m };
	m->idle_timer = (struct event_timer){ .expired = on_idle_timer, .opaque = m };
	ret = event_loop_init(&m->loop, err);
	return ret ? ret : watch_signals(m, err);
}

void machine_listen(struct machine *m, machine_told *told, void *opaque)
{
	m->told = told;
	m->told_opaque = opaque;
}

static struct vcpu *vcpu_started_last(struct machine *m)
{
	return &m->board.vcpu[m->board.nr_vcpus - m->nr_started];
}

static void stop_vcpus(struct machine *m)
{
	unsigned int i;

	for (i = m->board.nr_vcpus - m->nr_started; i < m->board.nr_vcpus; i++)
		vcpu_stop(&m->board.vcpu[i]);
	/* One that waits for a page has left the guest for good now, and would not leave the kernel. */
	uffd_give_up(&m->board.uffd, &m->board.memory);
	for (; m->nr_started; m->nr_started--)
		vcpu_join(vcpu_started_last(m));
}

static void on_vcpu_confined(struct vcpu *vcpu)
{
	count_confined(vcpu->opaque);
}

static enum filter_thread main_filter(const struct machine *m)
{
	if (m->cfg->allow_fork)
		return FILTER_FORK;
	return m->jail->may_write ? FILTER_SNAPSHOT : FILTER_VMM;
}

/* This thread confines itself after it has made the last of the others, which its filter does not allow, and while they
 * do the same. */
static int start_vcpus(struct machine *m, struct error *err)
{
	int ret = 0;

	atomic_store(&m->nr_unconfined, m->board.nr_vcpus + 1 + m->never_ran);

	while (m->nr_started < m->board.nr_vcpus && !ret) {
		m->nr_started++;
		ret = vcpu_start(vcpu_started_last(m), err);
	}
	if (ret)
		m->nr_started--;
	else
		ret = seccomp_install(main_filter(m), err);
	if (!ret)
		count_confined(m);
	return ret;
}

static int set_up_mmds(struct machine *m, struct error *err)
{
	struct mmds *mmds;
	int ret = machine_mmds(m, &mmds, err);

	if (ret)
		return ret;
	mmds->version = m->cfg->mmds.version;
	mmds->imds_compat = m->cfg->mmds.imds_compat;
	return 0;
}

/* Everything is open, and the vCPU threads to come are confined with this one. */
static int confine(struct machine *m, struct error *err)
{
	int fd[CONFIG_MAX_DRIVES];
	unsigned int i;

	for (i = 0; i < m->cfg->nr_drives; i++)
		fd[i] = block_fd(m->board.drive[i]);
	return jail_enter(m->jail, m->cfg, fd, err);
}

void machine_expect_start(struct machine *m)
{
	if (m->state == MACHINE_NOT_STARTED && !m->host_cpuid->begun)
		host_cpuid_begin(m->host_cpuid);
	make_vm(m);
}

static int check_expected(const struct machine *m, struct error *err)
{
	return m->expects_load ? error_set(err, -EBUSY, "a microVM comes through a stream (wait for that answer first)")
			       : 0;
}

int machine_expect_load(struct machine *m, struct error *err)
{
	int ret = check_expected(m, err);

	m->expects_load = true;
	return ret;
}

void machine_expects_no_load(struct machine *m)
{
	m->expects_load = false;
}

static int make(struct machine *m, struct board_restore *restore, enum board_blame *blame, struct error *err)
{
	const struct board_events events = {
		.vcpu_ended = on_vcpu_ended,
		.vcpu_confined = on_vcpu_confined,
		.vcpu_parked = on_vcpu_parked,
		.reset = on_guest_reset,
		.booted = on_booted,
		.status = on_guest_status,
		.quit = on_quit,
		.device_broken = on_device_broken,
		.vsock_listens = on_vsock_listens,
		.opaque = m,
	};
	int ret = 0;

	*blame = BLAME_HOST;
	ret = check_expected(m, err);
	if (ret)
		return ret;
	if (m->jail->entered)
		return error_set(err, -EPERM,
				 "the start failed when this process was in its jail already (start another process)");
	if (m->cfg->mmds.present)
		ret = set_up_mmds(m, err);
	if (ret)
		return ret;
	ret = board_create(&m->board, m->cfg, m->cfg->mmds.present ? m->mmds : NULL, &m->loop, m->timeline,
			   m->host_cpuid, &events, restore, blame, err);
	if (!ret) {
		*blame = BLAME_HOST;
		if (m->jail->may_write)
			background_open(&m->board.background);
		ret = confine(m, err);
	}
	if (!ret) {
		timeline_mark(m->timeline, STEP_STARTED);
		m->never_ran = restore != NULL;
		ret = start_vcpus(m, err);
	}
	if (ret) {
		stop_vcpus(m);
		board_destroy(&m->board);
		return ret;
	}
	m->state = restore ? MACHINE_PAUSED : MACHINE_RUNNING;
	if (m->cfg->metrics_path[0])
		event_loop_arm(&m->loop, &m->metrics_timer, event_loop_now_ns() + METRICS_PERIOD_NS);
	tell(m, restore ? MACHINE_LOADED : MACHINE_STARTED);
	return 0;
}

int machine_start(struct machine *m, enum board_blame *blame, struct error *err)
{
	return make(m, NULL, blame, err);
}

int machine_load(struct machine *m, struct board_restore *restore, enum board_blame *blame, struct error *err)
{
	return make(m, restore, blame, err);
}

/* ---- snapshots ---- */

int machine_begin_save(struct machine *m, struct error *err)
{
	if (m->state != MACHINE_PAUSED)
		return error_set(err, -EBUSY, "the microVM runs (pause it first: PATCH /vm with state Paused)");
	return machine_begin_live_save(m, err);
}

int machine_begin_live_save(struct machine *m, struct error *err)
{
	if (m->saving)
		return error_set(err, -EBUSY, "a snapshot is being written (wait for %s first)",
				 m->in_background ? "the event that tells its end" : "that answer");
	m->saving = true;
	return 0;
}

void machine_saving(struct machine *m, void (*give_up)(void *opaque), void *opaque)
{
	m->give_up_saving = give_up;
	m->saving_opaque = opaque;
}

void machine_save_in_background(struct machine *m, bool may_run)
{
	m->in_background = may_run;
}

void machine_forget_saved(struct machine *m)
{
	m->has_saved_id = false;
}

int machine_save(struct machine *m, struct state_writer *w, struct error *err)
{
	return board_save(&m->board, w, err);
}

void machine_saved(struct machine *m, const uint8_t *memory_id)
{
	m->saving = m->in_background = false;
	m->give_up_saving = NULL;
	if (!memory_id)
		return;
	m->has_saved_id = true;
	memcpy(m->saved_id, memory_id, sizeof(m->saved_id));
}

const uint8_t *machine_saved_id(const struct machine *m)
{
	return m->has_saved_id ? m->saved_id : NULL;
}

struct board *machine_board(struct machine *m)
{
	return &m->board;
}

struct machine_result machine_result(struct machine *m)
{
	struct machine_result result;

	pthread_mutex_lock(&m->lock);
	result = m->result;
	pthread_mutex_unlock(&m->lock);
	return result;
}

struct machine_result machine_run(struct machine *m)
{
	if (m->state == MACHINE_NOT_STARTED)
		event_loop_arm(&m->loop, &m->idle_timer, event_loop_now_ns() + IDLE_NS);
	event_loop_run(&m->loop);
	return machine_result(m);
}

void machine_finish(struct machine *m)
{
	unsigned int i;

	if (!m)
		return;
	for (i = 0; i < m->board.nr_transports; i++)
		virtio_mmio_close(&m->board.transport[i]);
	/* One that waits for its page to be saved would not leave the kernel. */
	background_end(&m->board.background);
	stop_vcpus(m);
	if (m->give_up_saving)
		m->give_up_saving(m->saving_opaque);
	for (i = 0; i < CONFIG_MAX_DRIVES; i++) {
		if (m->board.drive[i])
			block_finish(m->board.drive[i]);
	}
	vsock_destroy(m->board.vsock);
	if (m->board.console.loop)
		console_finish(&m->board.console);
	/* All of them look at RAM. */
	working_set_complete(m->board.working_set);
	working_set_end(m->board.working_set);
	m->board.working_set = NULL;
}

/* ---- what others ask ---- */

struct event_loop *machine_loop(struct machine *m)
{
	return &m->loop;
}

const struct jail *machine_jail(const struct machine *m)
{
	return m->jail;
}

enum machine_state machine_state(const struct machine *m)
{
	return m->state;
}

int machine_mmds(struct machine *m, struct mmds **out, struct error *err)
{
	int ret = m->mmds ? 0 : mmds_create(&m->mmds, m->cfg->mmds_size_limit, err);

	*out = m->mmds;
	return ret;
}

int machine_ctrl_alt_del(struct machine *m, struct error *err)
{
	return i8042_ctrl_alt_del(&m->board.i8042, err);
}

int machine_renew_id(struct machine *m, struct error *err)
{
	return vmgenid_renew(&m->board.vmgenid, err);
}

void machine_update_net(struct machine *m, unsigned int i, bool rx, bool tx)
{
	const struct net_config *cfg = &m->cfg->nets[i];

	net_path_update(&m->board.net_path[i]);
	net_set_rate(m->board.net[i], rx ? &cfg->rx : NULL, tx ? &cfg->tx : NULL);
}

void machine_flap_net(struct machine *m, unsigned int i)
{
	net_flap_link(m->board.net[i]);
}

struct block *machine_drive(struct machine *m, unsigned int i)
{
	return m->board.drive[i];
}
