/* mmds_state.c: the metadata in a state file; read back by the same reader and under the same limit as PUT /mmds. */
#include <errno.h>
#include <stdlib.h>

#include "json.h"
#include "mmds.h"
#include "snapshot/state.h"

void mmds_save(const struct mmds *mmds, struct state_writer *w)
{
	struct buffer text = { 0 };

	/* Nothing was put yet is not the same as null: no bytes. */
	if (mmds->store.data)
		(void)mmds_store_get(&mmds->store, "", 0, MMDS_FORMAT_JSON, &text);
	w->failed |= text.failed;
	state_put(w, STATE_METADATA, 0, text.data, text.len);
	free(text.data);
}

int mmds_restore(struct mmds *mmds, struct state_reader *r, struct error *err)
{
	const void *text = NULL;
	size_t len = 0;
	json_t *data;
	int ret = state_view(r, STATE_METADATA, 0, &text, &len, 1, err);

	if (ret || !len)
		return ret;
	ret = json_parse(text, len, "the state file's metadata", &data, err);
	if (ret)
		return ret;
	ret = json_is_object(data) ? mmds_store_put(&mmds->store, data, err)
				   : state_bad(err, STATE_METADATA, 0, "the metadata is no JSON object");
	json_decref(data);
	return ret;
}
