/* state_file.c: a whole state file in memory, checked as the loader checks it, but for what only KVM knows. */
#include "state_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config_json.h"
#include "files.h"
#include "json.h"
#include "records.h"
#include "retry.h"

static int read_data(struct state_file *s, struct error *err)
{
	int fd = files_open(s->path, O_RDONLY, &s->stat, err);
	ssize_t n = 1;
	size_t size;

	if (fd < 0)
		return fd;
	size = (size_t)s->stat.st_size;
	if (s->stat.st_size > (off_t)STATE_MAX) {
		close(fd);
		error_set(err, -EFBIG, "%zu bytes are too many for a state file (is it the memory file?)", size);
		return files_blame(err, s->path);
	}
	s->data = malloc(size + 1);
	while (s->data && s->len < size && n > 0) {
		n = RETRY_INTERRUPTED(read(fd, s->data + s->len, size - s->len));
		s->len += n > 0 ? (size_t)n : 0;
	}
	if (!s->data || n < 0) {
		error_set(err, s->data ? -errno : -ENOMEM, "%s", s->data ? strerror(errno) : "no memory for it");
		files_blame(err, s->path);
	}
	close(fd);
	return s->data && n >= 0 ? 0 : err->code;
}

int state_file_config(const json_t *json, struct config *config, struct error *err)
{
	/* In a file of configuration this can be the name of another file. Here nobody gets us to open one. */
	if (json_is_string(json_object_get(json, "cpu-config")))
		return error_set(err, -EINVAL, "cpu-config: a string (needs an object)");
	if (!json_is_object(json))
		return error_set(err, -EINVAL, "its configuration is not an object");
	return config_parse(json, config, err);
}

static int read_json(const struct state_file *s, enum state_tag tag, const char *name, json_t **out, struct error *err)
{
	const struct state_record *record = state_file_find(s, tag, 0);

	return json_parse((const char *)(record + 1), record->size, name, out, err);
}

static int check_info(const struct state_file *s, struct error *err)
{
	const struct state_info *info = &s->info;
	const struct config *c = &s->config;

	if (!memchr(info->version, '\0', sizeof(info->version)) || !memchr(info->cpu, '\0', sizeof(info->cpu)))
		return state_bad(err, STATE_INFO, 0, "a text in it has no end");
	if (info->nr_vcpus != c->machine.vcpu_count)
		return state_bad(err, STATE_INFO, 0, "another number of vCPUs than the configuration has");
	if (info->memory_size != c->machine.mem_size_mib << 20)
		return state_bad(err, STATE_INFO, 0, "another size of memory than the configuration has");
	if (info->nr_transports != c->nr_drives + c->nr_nets + c->vsock.present)
		return state_bad(err, STATE_INFO, 0, "another number of devices than the configuration has");
	return 0;
}

static int check(struct state_file *s, struct error *err)
{
	struct state_reader r;
	json_t *metadata = NULL;
	int ret;

	ret = state_open(&s->first, s->data, s->len, err);
	if (ret)
		return ret;
	r = s->first;
	ret = state_get(&r, STATE_INFO, 0, &s->info, sizeof(s->info), sizeof(s->info), err);
	if (!ret)
		ret = records_check(&s->first, &s->info, err);
	if (!ret)
		ret = read_json(s, STATE_CONFIG, "its configuration", &s->json, err);
	if (!ret)
		ret = state_file_config(s->json, &s->config, err);
	if (!ret)
		ret = check_info(s, err);
	if (!ret && state_file_find(s, STATE_METADATA, 0))
		ret = read_json(s, STATE_METADATA, "its metadata", &metadata, err);
	json_decref(metadata);
	return ret;
}

int state_file_read(struct state_file *s, const char *path, struct error *err)
{
	int ret;

	*s = (struct state_file){ .path = path };
	config_init(&s->config);
	ret = read_data(s, err);
	if (ret)
		return ret;
	ret = check(s, err);
	return ret ? files_blame(err, path) : 0;
}

void state_file_free(struct state_file *s)
{
	json_decref(s->json);
	config_free(&s->config);
	free(s->data);
	*s = (struct state_file){ 0 };
}

const struct state_record *state_file_find(const struct state_file *s, uint32_t tag, uint32_t index)
{
	struct state_reader r = s->first;
	const struct state_record *record;
	const void *payload;

	while (state_next(&r, &record, &payload))
		if (record->tag == tag && record->index == index)
			return record;
	return NULL;
}
