/* oci_machine.c: the machine that a container's limits, network and settings ask for. */
#include "oci_machine.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "jailer/words.h"
#include "oci_disks.h"
#include "text.h"

#define MIB            (1ull << 20)
#define MEMORY_MIN     (64 * MIB) /* what a kernel, the agent and a small program need */
#define MEMORY_DEFAULT (512 * MIB)
#define CPUS_MAX       32
#define KERNEL_THREADS 96 /* that count for threads-max as well */

/* ---- size ---- */

static int annotated_memory(const struct oci_spec *spec, uint64_t *memory, struct error *err)
{
	const char *word = oci_annotation(spec, OCI_ANNOTATION_MEMORY);

	*memory = MEMORY_DEFAULT;
	if (!word || (words_size(word, memory) && *memory >= MEMORY_MIN))
		return 0;
	return error_set(err, -EINVAL, OCI_ANNOTATION_MEMORY ": \"%.40s\" (needs a size from 64M, as in 512M)", word);
}

static int annotated_cpus(const struct oci_spec *spec, uint64_t *cpus, struct error *err)
{
	const char *word = oci_annotation(spec, OCI_ANNOTATION_CPUS);
	char *end = "";

	*cpus = word ? strtoull(word, &end, 10) : 1;
	if (!*end && *cpus >= 1 && *cpus <= CPUS_MAX)
		return 0;
	return error_set(err, -EINVAL, OCI_ANNOTATION_CPUS ": \"%.40s\" (needs 1 to %d)", word, CPUS_MAX);
}

int oci_machine_size(const struct oci_spec *spec, uint64_t *memory, uint64_t *cpus, struct error *err)
{
	const struct oci_resources *r = &spec->resources;
	int ret = annotated_memory(spec, memory, err);

	if (!ret)
		ret = annotated_cpus(spec, cpus, err);
	if (ret)
		return ret;
	if (r->memory >= 0)
		*memory = (uint64_t)r->memory < MEMORY_MIN ? MEMORY_MIN : ((uint64_t)r->memory + MIB - 1) / MIB * MIB;
	/* A part of a CPU is a whole one, of which the cgroup gives a part. */
	if (r->cpu_quota > 0 && !oci_annotation(spec, OCI_ANNOTATION_CPUS))
		*cpus = (uint64_t)((r->cpu_quota + r->cpu_period - 1) / r->cpu_period);
	if (*cpus > CPUS_MAX)
		*cpus = CPUS_MAX;
	return 0;
}

/* ---- the kernel's command line ---- */

static int add_arg(struct oci_machine *m, const char *prefix, const char *value, struct error *err)
{
	char *at = m->text + m->text_len;
	const size_t room = sizeof(m->text) - m->text_len, len = strlen(prefix) + strlen(value) + 1;

	if (len > room || m->nr_args == OCI_KERNEL_ARGS)
		return error_set(err, -E2BIG, "linux.sysctl: too many or too long for a kernel's command line");
	snprintf(at, room, "%s%s", prefix, value);
	m->args[m->nr_args++] = at;
	m->text_len += len;
	return 0;
}

/* The kernel sets these itself: sysctl.NAME=VALUE, in quotes where VALUE has blanks. */
static int add_sysctls(struct oci_machine *m, const struct oci_spec *spec, struct error *err)
{
	char word[512];
	const char *name, *text;
	json_t *value;
	int ret = 0;

	json_object_foreach(spec->sysctl, name, value)
	{
		text = json_string_value(value);
		if (strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/") !=
			    strlen(name) ||
		    strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/:, \t") !=
			    strlen(text) ||
		    snprintf(word, sizeof(word), "sysctl.%s=%s\"", name, text) >= (int)sizeof(word))
			return error_set(err, -EINVAL,
					 "linux.sysctl: %.60s: needs a name and a value of letters, digits and ._-/:,",
					 name);
		ret = add_arg(m, "\"", word, err);
		if (ret)
			break;
	}
	return ret;
}

static int add_network(struct oci_machine *m, struct error *err)
{
	const struct oci_network_config *c = &m->card;
	char mtu[16];
	int ret = 0;

	m->network.fd = c->tap;
	if (c->tap < 0)
		return 0;
	m->network.mac = c->mac;
	m->network.ip = *c->ip ? c->ip : NULL;
	m->network.gateway = *c->gateway ? c->gateway : NULL;
	snprintf(mtu, sizeof(mtu), "%u", c->mtu);
	if (*c->ip6)
		ret = add_arg(m, "mayfly.ip6=", c->ip6, err);
	if (!ret && *c->gateway6)
		ret = add_arg(m, "mayfly.gw6=", c->gateway6, err);
	return ret || !c->mtu ? ret : add_arg(m, "mayfly.mtu=", mtu, err);
}

int oci_machine_plan(const struct oci_spec *spec, const char *id, struct oci_machine *m, struct error *err)
{
	char number[24];
	int ret;

	m->network = (struct network){ .fd = -1, .ready = -1, .errors = -1 };
	m->card.tap = -1;
	snprintf(m->hostname, sizeof(m->hostname), "%s", spec->hostname && *spec->hostname ? spec->hostname : id);
	m->config = (struct machine_config){
		.hostname = m->hostname, .kernel_args = m->args, .drives = &m->drives, .network = &m->network
	};
	ret = oci_machine_size(spec, &m->config.memory, &m->config.cpus, err);
	if (!ret)
		ret = oci_network_open(&m->card, err);
	if (!ret)
		ret = add_network(m, err);
	if (!ret)
		ret = add_sysctls(m, spec, err);
	if (ret || spec->resources.pids <= 0)
		return ret;
	snprintf(number, sizeof(number), "%lld", (long long)spec->resources.pids + KERNEL_THREADS);
	return add_arg(m, "sysctl.kernel.threads-max=", number, err);
}
