/* config_fixture.h: a configuration file of any bytes, parsed. */
#ifndef MAYFLY_CONFIG_FIXTURE_H
#define MAYFLY_CONFIG_FIXTURE_H

#include "unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config.h"
#include "config_json.h"

static char file_path[] = "/tmp/test_config_XXXXXX";

static inline int make_file(void **state)
{
	int fd = mkstemp(file_path);

	(void)state;
	return fd < 0 || close(fd);
}

static inline int remove_file(void **state)
{
	(void)state;
	return unlink(file_path);
}

static inline int parse_bytes(const char *text, size_t len, struct config *cfg, struct error *err)
{
	FILE *f = fopen(file_path, "w");

	assert_non_null(f);
	assert_int_equal(fwrite(text, 1, len, f), len);
	assert_int_equal(fclose(f), 0);
	/* Not from zero: config_init has to set everything it promises. */
	memset(cfg, 0xa5, sizeof(*cfg));
	config_init(cfg);
	memset(err, 0, sizeof(*err));
	return config_parse_file(file_path, cfg, err);
}

static inline void parse_good(const char *text, struct config *cfg)
{
	struct error err;

	if (parse_bytes(text, strlen(text), cfg, &err))
		fail_msg("%s\n  was refused: %s", text, err.message);
}

#endif
