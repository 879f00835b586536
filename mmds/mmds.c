/* mmds.c: the parts of the metadata service that all interfaces of a microVM share. */
#include "mmds.h"

#include <errno.h>
#include <stdlib.h>

#include "event_loop.h"

int mmds_create(struct mmds **out, size_t size_limit, struct error *err)
{
	struct mmds *mmds;
	int ret;

	if (size_limit > MMDS_MAX_SIZE_LIMIT)
		return error_set(err, -EINVAL, "mmds-size-limit: %zu is more than %u bytes", size_limit,
				 MMDS_MAX_SIZE_LIMIT);
	mmds = calloc(1, sizeof(*mmds));
	if (!mmds)
		return error_set(err, -ENOMEM, "mmds: no memory");
	mmds->now_ns = event_loop_now_ns;
	mmds_store_init(&mmds->store, size_limit);
	ret = mmds_tokens_init(&mmds->tokens, mmds->now_ns(), err);
	if (ret) {
		free(mmds);
		return ret;
	}
	*out = mmds;
	return 0;
}

void mmds_destroy(struct mmds *mmds)
{
	if (!mmds)
		return;
	mmds_store_free(&mmds->store);
	free(mmds);
}
