/* agent.h: what the parts of the guest's agent share: its state, one connection to the host, the operations. */
#ifndef MAYFLY_AGENT_H
#define MAYFLY_AGENT_H

#include <stdbool.h>
#include <sys/types.h>

#include "error.h"
#include "frames.h"

enum main_state { MAIN_NONE, MAIN_STARTING, MAIN_RUNNING, MAIN_ENDED };

/* What the agent's processes know of the main command: one page of shared memory. Changes of `state` wake who waits. */
struct shared {
	int state;       /* enum main_state, atomic */
	pid_t keeper;    /* the agent's process that started the main command and holds its streams */
	pid_t pid;       /* of the main command */
	int status;      /* as from waitpid, once it has ended */
	int stop_signal; /* what asks it to end */
};

struct agent {
	struct shared *shared;
	int root;       /* the container's root directory, O_PATH */
	int listener;   /* a stream socket that listens; the agent's first process alone has it */
	int attach[2];  /* to the keeper [0], from others [1]: connections that want the main command's output */
	pid_t pid;      /* of the agent's first process */
	bool call_host; /* connect to the host's AGENT_PORT once */
};

/*
 * agent_run - serve connections until the main command has ended, or somebody said stop while there was none
 * agent: root, listener and call_host are set. It never waits for a connection: each is a process of its
 * own. Returns the main command's exit status, 128 + n for signal n. Only the first process of a tree, once.
 */
int agent_run(struct agent *agent);

/* main_publish - change the main command's state and wake who waits for it. */
void main_publish(struct shared *shared, enum main_state state);

/* main_wait - until the state is another than `while_it_is`, or milliseconds have gone by (-1: for ever). Returns the
 * state. */
enum main_state main_wait(struct shared *shared, enum main_state while_it_is, int milliseconds);

/* milliseconds - a clock that only goes forward. */
int64_t milliseconds(void);

/* ---- connection.c: frames to and from the host, blocking ---- */

struct connection {
	int fd;
	struct frame_reader in;
};

/* conn_read - the next frame is in c->in. 1; 0 at the end of the stream; a negative errno when it is broken. */
int conn_read(struct connection *c);

/* conn_send - 0, or a negative errno when the host is gone. */
int conn_send(struct connection *c, enum frame_type type, const void *data, size_t len);

/* conn_close - tell the host that this was all, and wait (not for long) until it hangs up, too: nothing sent is lost.
 */
void conn_close(struct connection *c);

/* ---- request.c: what the host wants ---- */

/*
 * request_read - the bytes of all REQUEST frames of a new connection, in *text (NULL before), which the caller frees
 * Returns 0: they are fields; 1: the connection ended before; a negative errno with err set.
 */
int request_read(struct connection *c, char **text, size_t *len, struct error *err);

/* request_serve - read the request of a new connection, do it, answer it, close it. For a process of its own. */
void request_serve(struct agent *agent, struct connection *c);

/*
 * An operation gets the request's fields and puts its results into reply. Returns 0: they are sent; a negative errno
 * with err set: the sentence is sent with them; 1: it has said all itself.
 */
#define OPERATION(name)                                                                                     \
	int name(struct agent *agent __attribute__((unused)), struct connection *c __attribute__((unused)), \
		 const struct fields *request __attribute__((unused)),                                      \
		 struct field_buffer *reply __attribute__((unused)), struct error *err __attribute__((unused)))

/* run.c */
OPERATION(op_main);
OPERATION(op_exec);
/* control.c */
OPERATION(op_kill);
OPERATION(op_stop);
OPERATION(op_list);
OPERATION(op_info);
/* files.c */
OPERATION(op_put);
OPERATION(op_get);
/* identity.c */
OPERATION(op_clock);
OPERATION(op_reseed);
OPERATION(op_hostname);
OPERATION(op_network);

/* reply_send - send reply as REPLY with ok=1, or with the error's sentence if there is one. 0 or a negative errno. */
int reply_send(struct connection *c, const struct field_buffer *reply, const struct error *err);

/* bad_field - the error for a field that says something else than it may. Returns -EINVAL. */
int bad_field(struct error *err, const struct fields *f, const char *key, const char *accepted);

/* number_field - field_number with an error that is a sentence; a field that is not there leaves *out as it is. */
int number_field(const struct fields *f, const char *key, int64_t min, int64_t max, int64_t *out, struct error *err);

/* ---- processes.c ---- */

/* processes_each - call `with` for each process of the container: what descends from the agent and is not the agent. */
void processes_each(const struct agent *agent, void (*with)(pid_t pid, const char *stat, void *data), void *data);

/* processes_kill - send a signal to all of them. */
void processes_kill(const struct agent *agent, int signal);

/* processes_include - is pid one of them? */
bool processes_include(const struct agent *agent, pid_t pid);

/* status_fields - code= or signal= for a status as from waitpid. */
void status_fields(struct field_buffer *b, int status);

/* word_number - the index of a word in a list with blanks between, -1 when it is not in it. */
int word_number(const char *list, const char *word, size_t len);

/* signal_number - of "15", "TERM" or "SIGTERM"; -1 for what is no signal. */
int signal_number(const char *text);

#endif
