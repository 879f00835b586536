/* oci_commands.h: the commands of mayfly-oci. Each returns its exit status, or -1 with the sentence in err. */
#ifndef MAYFLY_CONTAINERS_OCI_COMMANDS_H
#define MAYFLY_CONTAINERS_OCI_COMMANDS_H

#include "error.h"
#include "oci_options.h"
#include "oci_state.h"
#include "places.h"

int oci_create(const struct oci_options *options, const struct places *places, struct error *err);
int oci_run(const struct oci_options *options, const struct places *places, struct error *err);
int oci_exec(const struct oci_options *options, const struct places *places, struct error *err);
int oci_start(const struct oci_options *options, const struct places *places, struct error *err);
int oci_state(const struct oci_options *options, const struct places *places, struct error *err);
int oci_kill(const struct oci_options *options, const struct places *places, struct error *err);
int oci_delete(const struct oci_options *options, const struct places *places, struct error *err);
int oci_list(const struct oci_options *options, const struct places *places, struct error *err);
int oci_ps(const struct oci_options *options, const struct places *places, struct error *err);
int oci_pause(const struct oci_options *options, const struct places *places, struct error *err);
int oci_resume(const struct oci_options *options, const struct places *places, struct error *err);
int oci_update(const struct oci_options *options, const struct places *places, struct error *err);
int oci_events(const struct oci_options *options, const struct places *places, struct error *err);
int oci_features(const struct oci_options *options, const struct places *places, struct error *err);
int oci_example(const struct oci_options *options, const struct places *places, struct error *err);

/* oci_remove - what is left of a container whose keeper has ended: its jailer, cgroup, jail and folder. */
int oci_remove(const struct oci_options *options, const struct places *places, struct oci_container *container,
	       struct error *err);

/* oci_report - write err as one line to standard error, and where --log says. */
void oci_report(const struct oci_options *options, const struct error *err);

#endif
