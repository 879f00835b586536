/* metadata.c: what the API says to the metadata service, and how it is set up. */
#include "api_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "config_dump.h"
#include "config_json.h"
#include "json.h"
#include "mmds/mmds.h"
#include "text.h"

static int set_status(struct call *call, int ret)
{
	if (ret == -EFBIG)
		call->status = 413;
	return ret;
}

static int check_object(const struct call *call, struct error *err)
{
	if (json_is_object(call->body))
		return 0;
	return error_set(err, -EINVAL, "mmds: not an object (needs an object in braces)");
}

int put_mmds(struct call *call, struct error *err)
{
	struct mmds *mmds;
	int ret = check_object(call, err);

	if (!ret)
		ret = machine_mmds(call->api->machine, &mmds, err);
	return ret ? ret : set_status(call, mmds_store_put(&mmds->store, call->body, err));
}

int patch_mmds(struct call *call, struct error *err)
{
	struct mmds *mmds;
	int ret = check_object(call, err);

	if (!ret)
		ret = machine_mmds(call->api->machine, &mmds, err);
	return ret ? ret : set_status(call, mmds_store_patch(&mmds->store, call->body, err));
}

int get_mmds(struct call *call, struct error *err)
{
	struct mmds *mmds;
	int ret = machine_mmds(call->api->machine, &mmds, err);

	if (ret)
		return ret;
	call->answer = mmds->store.data ? json_incref(mmds->store.data) : json_object();
	return 0;
}

int put_mmds_config(struct call *call, struct error *err)
{
	struct config *cfg = call->api->cfg;
	struct mmds_config mmds;
	int ret = config_parse_mmds_config(call->body, &mmds, err);

	if (!ret)
		ret = config_check_mmds(cfg, &mmds, err);
	if (ret)
		return ret;
	cfg->mmds = mmds;
	events_add(&call->api->events, "configured", ",\"resource\":\"/mmds/config\"");
	return 0;
}

int get_mmds_config(struct call *call, struct error *err)
{
	if (!call->api->cfg->mmds.present) {
		call->status = 404;
		return error_set(err, -ENOENT, "No metadata service is configured.");
	}
	call->answer = config_dump_mmds_config(&call->api->cfg->mmds);
	return 0;
}

int api_load_metadata(struct machine *machine, const struct config *cfg, const char *path, struct error *err)
{
	struct mmds *mmds;
	json_t *json;
	int ret = machine_mmds(machine, &mmds, err);
	struct error why = { 0 };

	if (ret)
		return ret;
	ret = json_parse_file(path, CONFIG_FILE_MAX + (size_t)cfg->mmds_size_limit, &json, &why);
	if (ret)
		return error_set(err, ret, "--metadata: %s", why.message);
	if (json_is_object(json))
		ret = mmds_store_put(&mmds->store, json, err);
	else
		ret = error_set(err, -EINVAL, "--metadata: %s: not an object (needs an object in braces)",
				text_path_shown(path));
	json_decref(json);
	return ret;
}
