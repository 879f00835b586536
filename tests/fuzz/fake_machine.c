/* fake_machine.c: in the place of machine.c, a microVM without KVM: it starts, pauses and has drives for the API's
 * sake. */
#include "fake_machine.h"

#include <errno.h>
#include <string.h>

#include "fuzz.h"

struct machine fake_machine;

static void nothing(struct virtio_device *dev)
{
	(void)dev;
}

static const struct virtio_transport_ops no_transport = {
	.interrupt = nothing, .config_changed = nothing, .broken = nothing, .reset_done = nothing
};

void fake_machine_begin(struct event_loop *loop, const struct config *cfg)
{
	fake_machine =
		(struct machine){ .loop = loop, .cfg = cfg, .told = fake_machine.told, .opaque = fake_machine.opaque };
}

void fake_machine_end(void)
{
	struct machine *m = &fake_machine;
	unsigned int i;

	fake_machine_parked();
	for (i = 0; i < CONFIG_MAX_DRIVES; i++)
		block_destroy(m->drive[i]);
	if (m->mmds)
		mmds_destroy(m->mmds);
	memset(m->drive, 0, sizeof(m->drive));
	m->mmds = NULL;
}

void fake_machine_tell(const struct machine_news *news)
{
	if (fake_machine.told)
		fake_machine.told(fake_machine.opaque, news);
}

static void tell(enum machine_event event)
{
	fake_machine_tell(&(struct machine_news){ .event = event });
}

struct event_loop *machine_loop(struct machine *m)
{
	return m->loop;
}

void machine_listen(struct machine *m, machine_told *told, void *opaque)
{
	m->told = told;
	m->opaque = opaque;
}

void machine_expect_start(struct machine *m)
{
	(void)m;
}

const struct jail *machine_jail(const struct machine *m)
{
	static const struct jail none;

	(void)m;
	return &none;
}

enum machine_state machine_state(const struct machine *m)
{
	return m->state;
}

struct machine_result machine_result(struct machine *m)
{
	(void)m;
	return (struct machine_result){ .end = MACHINE_QUIT };
}

static uint64_t fake_clock(void)
{
	return fuzz_host.now_ns;
}

int machine_mmds(struct machine *m, struct mmds **out, struct error *err)
{
	int ret = m->mmds ? 0 : mmds_create(&m->mmds, 4096, err);

	if (!ret)
		m->mmds->now_ns = fake_clock;
	*out = m->mmds;
	return ret;
}

/* Drives are real, everything else only has to be what a start would check. */
int machine_start(struct machine *m, enum board_blame *blame, struct error *err)
{
	unsigned int i;
	int ret = 0;

	*blame = BLAME_CONFIG;
	if (m->cfg->mmds.present)
		ret = config_check_mmds(m->cfg, &m->cfg->mmds, err);
	for (i = 0; i < m->cfg->nr_drives && !ret; i++) {
		ret = block_create(&m->drive[i], &m->cfg->drives[i], NULL, m->loop, err);
		if (!ret)
			block_device(m->drive[i])->transport_ops = &no_transport;
	}
	if (ret) {
		for (i = 0; i < CONFIG_MAX_DRIVES; i++)
			block_destroy(m->drive[i]);
		memset(m->drive, 0, sizeof(m->drive));
		return ret;
	}
	m->state = MACHINE_RUNNING;
	tell(MACHINE_STARTED);
	return 0;
}

void fake_machine_parked(void)
{
	struct machine *m = &fake_machine;
	struct machine_waiter *waiter = m->waiters, *next;

	if (m->state != MACHINE_PAUSING)
		return;
	m->state = MACHINE_PAUSED;
	m->waiters = NULL;
	tell(MACHINE_HAS_PAUSED);
	for (; waiter; waiter = next) {
		next = waiter->next;
		waiter->done(waiter);
	}
}

void machine_pause(struct machine *m, struct machine_waiter *waiter)
{
	if (m->state == MACHINE_PAUSED) {
		waiter->done(waiter);
		return;
	}
	waiter->next = m->waiters;
	m->waiters = waiter;
	m->state = MACHINE_PAUSING;
}

int machine_resume(struct machine *m, struct error *err)
{
	if (m->state == MACHINE_PAUSING)
		return error_set(err, -EBUSY, "the microVM is being paused");
	if (m->state == MACHINE_PAUSED)
		tell(MACHINE_HAS_RESUMED);
	m->state = MACHINE_RUNNING;
	return 0;
}

int machine_ctrl_alt_del(struct machine *m, struct error *err)
{
	(void)m;
	return error_set(err, -ENODEV, "nobody listens");
}

int machine_renew_id(struct machine *m, struct error *err)
{
	(void)m;
	(void)err;
	return 0;
}

void machine_update_net(struct machine *m, unsigned int i, bool rx, bool tx)
{
	(void)rx;
	(void)tx;
	CHECK(i < m->cfg->nr_nets);
}

struct block *machine_drive(struct machine *m, unsigned int i)
{
	CHECK(i < m->cfg->nr_drives);
	return m->drive[i];
}

/* ---- snapshots: their files are read by what is real, and none is written ---- */

int machine_load(struct machine *m, struct board_restore *restore, enum board_blame *blame, struct error *err)
{
	(void)restore;
	return machine_start(m, blame, err);
}

int machine_expect_load(struct machine *m, struct error *err)
{
	(void)m;
	(void)err;
	return 0;
}

void machine_expects_no_load(struct machine *m)
{
	(void)m;
}

int machine_begin_save(struct machine *m, struct error *err)
{
	(void)m;
	return error_set(err, -EPERM, "a running microVM writes no files");
}

int machine_begin_live_save(struct machine *m, struct error *err)
{
	return machine_begin_save(m, err);
}

int machine_save(struct machine *m, struct state_writer *w, struct error *err)
{
	(void)m;
	(void)w;
	return error_set(err, -EPERM, "a running microVM writes no files");
}

void machine_save_in_background(struct machine *m, bool may_run)
{
	(void)m;
	(void)may_run;
}

void machine_forget_saved(struct machine *m)
{
	(void)m;
}

void machine_saving(struct machine *m, void (*give_up)(void *opaque), void *opaque)
{
	(void)m;
	(void)give_up;
	(void)opaque;
}

void machine_saved(struct machine *m, const uint8_t *memory_id)
{
	(void)m;
	(void)memory_id;
}

const uint8_t *machine_saved_id(const struct machine *m)
{
	(void)m;
	return NULL;
}

struct board *machine_board(struct machine *m)
{
	static struct board board;

	(void)m;
	return &board;
}

void machine_flap_net(struct machine *m, unsigned int i)
{
	(void)m;
	(void)i;
}
