/* error.h: a negative errno together with the one sentence a person needs to mend it. */
#ifndef MAYFLY_ERROR_H
#define MAYFLY_ERROR_H

struct error {
	int code;          /* negative errno, 0 while nothing went wrong */
	char message[360]; /* one sentence: field, value, what the system said, what would work */
};

/*
 * error_set - store code and the formatted sentence, return code
 * err may be NULL when the caller wants the code alone. Any thread (each has its own struct error).
 */
int error_set(struct error *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#endif
