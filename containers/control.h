/* control.h: what a keeper is told while it keeps a container: one word on a connection, one answer. */
#ifndef MAYFLY_CONTAINERS_CONTROL_H
#define MAYFLY_CONTAINERS_CONTROL_H

/* Words. Anything else is answered with a sentence. */
#define CONTROL_START "start"
#define CONTROL_KILL  "kill " /* and the number of a signal */
#define CONTROL_OK    "ok"

#define CONTROL_WORD 32 /* bytes of a word */

/*
 * control_take - accept a connection of the listening sequenced-packet socket and read its word
 * Returns the connection to answer on, or -1 when there is none, or it said nothing within a second.
 */
int control_take(int listener, char word[CONTROL_WORD]);

/* control_answer - answer, and close the connection. */
void control_answer(int fd, const char *text);

/* control_signal - the signal of a CONTROL_KILL word; 0: it is another word. */
int control_signal(const char *word);

#endif
